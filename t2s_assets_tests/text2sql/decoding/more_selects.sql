SELECT a.name, b.name FROM customers a JOIN customers b ON a.city = b.city WHERE a.id < b.id
SELECT c.name FROM customers c WHERE EXISTS (SELECT 1 FROM orders o JOIN order_items i ON i.order_id = o.id WHERE o.customer_id = c.id AND i.quantity > 2)
WITH big AS (SELECT customer_id, COUNT(*) AS n FROM orders GROUP BY customer_id HAVING COUNT(*) > 2) SELECT c.name, b.n FROM customers c JOIN big b ON b.customer_id = c.id ORDER BY b.n DESC
SELECT s.city FROM (SELECT city, COUNT(*) AS n FROM customers GROUP BY city) AS s WHERE s.n > 5 AND s.city <> 'Lima'
SELECT id, c.name, o.total FROM customers c JOIN orders o USING (id)
SELECT name AS who FROM customers ORDER BY who
SELECT status, SUM(total) AS total FROM orders GROUP BY status HAVING total > 100
SELECT c.country, SUM(o.total) AS spent FROM customers c JOIN orders o ON o.customer_id = c.id GROUP BY c.country HAVING spent > 10 ORDER BY spent DESC
SELECT p.title FROM products p WHERE p.price > (SELECT AVG(q.price) FROM products q WHERE q.category = p.category)
SELECT title FROM products WHERE NOT EXISTS (SELECT 1 FROM order_items WHERE product_id = products.id)
SELECT MAX(t.n) FROM (SELECT status, COUNT(*) AS n FROM orders GROUP BY status) AS t
WITH a AS (SELECT id, name FROM customers), b AS (SELECT a.id, COUNT(*) AS n FROM a JOIN orders o ON o.customer_id = a.id GROUP BY a.id) SELECT a.name, b.n FROM a JOIN b ON a.id = b.id
SELECT UPPER(city), COUNT(*) FROM customers GROUP BY UPPER(city) ORDER BY UPPER(city)
SELECT r.title FROM (SELECT title, RANK() OVER (PARTITION BY category ORDER BY price DESC) AS place FROM products) AS r WHERE r.place = 1
SELECT YEAR(o.order_date) AS y, c.country, COUNT(*) AS n FROM orders o JOIN customers c ON c.id = o.customer_id GROUP BY y, c.country ORDER BY y, n DESC
SELECT name, city FROM customers UNION SELECT title, category FROM products ORDER BY name LIMIT 5
SELECT * FROM customers c JOIN orders o ON o.customer_id = c.id WHERE c.country = 'Peru'
SELECT order_date - LAG(order_date) OVER (ORDER BY order_date) FROM orders
SELECT AVG(o.order_date - c.joined) FROM orders o JOIN customers c ON c.id = o.customer_id
SELECT c.name FROM customers c JOIN orders o ON o.customer_id = c.id GROUP BY c.id, c.name HAVING COUNT(DISTINCT o.status) > 1 ORDER BY COUNT(*) DESC, c.name
