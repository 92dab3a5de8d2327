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
SELECT name, COUNT(*) AS orders FROM customers JOIN orders ON customers.id = orders.customer_id GROUP BY name ORDER BY orders DESC
SELECT c.name, COUNT(*) AS Orders FROM customers AS c JOIN orders AS o ON c.id = o.customer_id GROUP BY c.name HAVING Orders > 3
SELECT category AS products, COUNT(*) AS n FROM products AS p GROUP BY products ORDER BY products
SELECT orders FROM (SELECT customer_id, COUNT(*) AS orders FROM orders GROUP BY customer_id) AS n WHERE orders > 2
SELECT city AS customers FROM customers UNION SELECT country FROM customers ORDER BY customers
SELECT orders.id FROM orders AS orders WHERE orders.total > 5
WITH orders AS (SELECT * FROM orders WHERE total > 10) SELECT orders.status, COUNT(*) FROM orders GROUP BY orders.status
WITH orders AS (SELECT id, city AS town FROM customers) SELECT orders.town FROM orders JOIN order_items ON order_items.order_id = orders.id
WITH n(orders) AS (SELECT COUNT(*) FROM orders) SELECT orders FROM n
SELECT AVG(n) FROM (SELECT COUNT(*) AS n FROM orders GROUP BY customer_id)
SELECT c.name, n FROM customers AS c JOIN (SELECT customer_id, COUNT(*) AS n FROM orders GROUP BY customer_id) ON customer_id = c.id
SELECT * FROM (SELECT id FROM customers), (SELECT id FROM orders)
SELECT EXTRACT(DOW FROM order_date), EXTRACT(DOY FROM order_date) FROM orders
SELECT name FROM customers WHERE name LIKE '10!%%' ESCAPE '!' AND NOT email ILIKE '%\_%' ESCAPE '\'
SELECT CASE WHEN total > 10 THEN order_date END FROM orders
SELECT CASE status WHEN 'new' THEN NULL WHEN 'paid' THEN order_date ELSE CAST('2024-01-31' AS DATE) END + INTERVAL 1 DAY FROM orders
SELECT name, CASE WHEN active THEN FALSE WHEN email IS NULL THEN NULL ELSE city = 'Oslo' END AS lost FROM customers
SELECT COUNT(*) FROM customers WHERE CASE WHEN country = 'Peru' THEN active ELSE TRUE END
SELECT SUM(CASE WHEN status = 'new' THEN NULL ELSE total END), MAX(CASE WHEN total > 3 THEN NULL ELSE LOWER(status) END) FROM orders
SELECT id FROM orders WHERE order_date >= '2024-1-5' AND order_date < '2024-02-9'
SELECT id FROM orders WHERE CAST(order_date AS TIMESTAMP) BETWEEN '2024-01-31 10:00' AND '2024-02-29T23:59:59.999'
SELECT id FROM orders WHERE CAST(CAST(order_date AS TIMESTAMP) AS TIME) < '9:30'
SELECT id FROM orders WHERE total > 1e6 OR total < 2.5E-3 ORDER BY total * 1e+3
SELECT CAST(SUM(total) AS BIGINT), CAST(AVG(total) AS INT) FROM orders
SELECT city AS größe, SUM(id) AS 数 FROM customers GROUP BY größe ORDER BY 数 DESC, größe
SELECT é.größe FROM (SELECT name AS größe FROM customers) AS é WHERE größe LIKE 'A%'
SELECT COUNT(*) AS a_very_long_alias_name_that_a_person_wrote_for_the_number FROM orders
SELECT COUNT(*) AS "How many orders were placed by all the customers of the shop?" FROM orders
SELECT REGEXP_REPLACE(name, '[aeiou]', '', 'g') FROM customers
SELECT id FROM customers WHERE id = ANY (SELECT customer_id FROM orders)
SELECT city FROM customers EXCEPT ALL SELECT country FROM customers INTERSECT ALL SELECT name FROM customers
SELECT country, city, COUNT(*) FROM customers GROUP BY CUBE (country, city)
SELECT title FROM products ORDER BY price OFFSET 2
SELECT JULIAN(order_date) FROM orders
