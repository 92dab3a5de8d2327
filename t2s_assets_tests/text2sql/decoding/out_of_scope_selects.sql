SELECT total FROM customers
SELECT c.name FROM customers
SELECT c.total FROM customers AS c
SELECT name FROM customers AS c WHERE o.id = 3
SELECT customers.name FROM customers AS c
SELECT id FROM customers JOIN orders ON customers.id = orders.customer_id
SELECT o.total FROM customers AS c JOIN orders AS o ON o.customer_id = c.customer_id
SELECT name FROM customers JOIN products ON p.id = customers.id
SELECT city, COUNT(*) FROM customers GROUP BY country
SELECT city, id + COUNT(*) FROM customers GROUP BY ALL
SELECT city FROM customers GROUP BY city ORDER BY name
SELECT city, COUNT(*) AS n FROM customers GROUP BY n
SELECT city, COUNT(*) FROM customers GROUP BY 2
SELECT name FROM customers ORDER BY 2
SELECT name AS who FROM customers WHERE whom = 'a'
SELECT s.m FROM (SELECT COUNT(*) AS n FROM orders) AS s
SELECT name FROM (SELECT COUNT(*) AS n FROM orders) AS s
WITH big AS (SELECT id FROM customers) SELECT name FROM big
WITH a AS (SELECT * FROM b), b AS (SELECT * FROM orders) SELECT * FROM a
SELECT city FROM customers UNION SELECT title, price FROM products
SELECT name FROM customers WHERE id IN (SELECT id, total FROM orders)
SELECT name FROM customers WHERE id IN (SELECT status FROM orders)
SELECT name FROM customers WHERE id = (SELECT * FROM orders)
SELECT name FROM customers AS c JOIN orders AS c ON c.id = 3
SELECT name FROM customers JOIN order_items USING (id)
SELECT SUM(s.name) FROM (SELECT name FROM customers) AS s
SELECT LOWER(s.n) FROM (SELECT COUNT(*) AS n FROM customers) AS s
SELECT name FROM customers WHERE EXISTS (SELECT 1 FROM orders WHERE customer_id = c.id)
SELECT title FROM products QUALIFY price > 3
SELECT id AS orders FROM orders GROUP BY orders
SELECT id AS orders FROM orders ORDER BY orders + 1
SELECT id AS orders, RANK() OVER (ORDER BY id) AS n FROM orders QUALIFY orders > 1
SELECT id AS k FROM orders AS k ORDER BY ABS(k)
SELECT name FROM (SELECT id AS o, name FROM customers) AS c WHERE EXISTS (SELECT 1 FROM orders AS o WHERE LOWER(o) = 'a')
WITH orders AS (SELECT id FROM customers) SELECT total FROM orders
WITH orders AS (SELECT id FROM customers), orders AS (SELECT id FROM products) SELECT id FROM orders
WITH orders AS (SELECT id FROM orders), n AS (SELECT total FROM orders) SELECT total FROM n
SELECT id FROM (SELECT id FROM customers), (SELECT id FROM orders)
SELECT n FROM (SELECT COUNT(*) AS größe FROM orders)
SELECT CASE WHEN total > 3 THEN order_date ELSE status END FROM orders
SELECT CASE WHEN total > 3 THEN order_date END + 1.5 FROM orders
SELECT CASE WHEN total > 3 THEN TRUE ELSE 2.5 END AND total > 3 FROM orders
SELECT YEAR(CASE WHEN total > 3 THEN status END) FROM orders
SELECT id FROM orders ORDER BY 1e1
