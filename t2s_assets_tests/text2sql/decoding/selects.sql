SELECT name FROM customers
select * from products
SELECT DISTINCT city FROM customers ORDER BY city
SELECT COUNT(*) FROM orders
SELECT COUNT(DISTINCT customer_id) FROM orders WHERE status = 'shipped'
SELECT title, price FROM products WHERE price > 10.5 ORDER BY price DESC LIMIT 5
SELECT title FROM products ORDER BY price DESC, title ASC LIMIT 3 OFFSET 2
SELECT name, email FROM customers WHERE country IN ('Chile', 'Peru') AND city <> 'Lima'
SELECT name FROM customers WHERE country NOT IN ('Chile') OR email IS NULL
SELECT name FROM customers WHERE email IS NOT NULL AND name LIKE 'A%'
SELECT name FROM customers WHERE name ILIKE '%o''brien%'
SELECT title FROM products WHERE price BETWEEN 5 AND 10
SELECT title FROM products WHERE price NOT BETWEEN 5 AND 10 AND NOT category = 'toys'
SELECT category, COUNT(*) FROM products GROUP BY category
SELECT category, COUNT(*) AS n FROM products GROUP BY category ORDER BY n DESC
SELECT category, AVG(price) AS average FROM products GROUP BY category HAVING COUNT(*) > 3
SELECT category, AVG(price) AS average FROM products GROUP BY category HAVING average > 3 ORDER BY 2
SELECT status, SUM(total) FROM orders GROUP BY ALL ORDER BY ALL
SELECT c.name, SUM(o.total) AS spent FROM customers AS c JOIN orders AS o ON o.customer_id = c.id GROUP BY c.name
SELECT c.name FROM customers c LEFT JOIN orders o ON o.customer_id = c.id WHERE o.id IS NULL
SELECT customers.name, orders.total FROM customers INNER JOIN orders ON customers.id = orders.customer_id
SELECT c.country, COUNT(DISTINCT o.id) AS n FROM customers c JOIN orders o ON c.id = o.customer_id GROUP BY c.country ORDER BY n DESC LIMIT 1
SELECT p.title, SUM(i.quantity * i."unit price") AS revenue FROM order_items AS i JOIN products AS p ON p.id = i.product_id GROUP BY p.title ORDER BY revenue DESC LIMIT 10
SELECT c.name FROM customers c JOIN orders o ON c.id = o.customer_id JOIN order_items i ON i.order_id = o.id JOIN products p ON p.id = i.product_id WHERE p.category = 'toys'
SELECT c.name, o.id FROM customers c, orders o WHERE c.id = o.customer_id
SELECT c.name FROM customers c CROSS JOIN products p WHERE p.stock = 0
SELECT COUNT(*) FROM customers c FULL OUTER JOIN orders o ON c.id = o.customer_id AND o.total > 5
SELECT order_items.quantity FROM orders JOIN order_items ON orders.id = order_items.order_id
SELECT title FROM products WHERE price = (SELECT MAX(price) FROM products)
SELECT title FROM products WHERE price > (SELECT AVG(price) FROM products) ORDER BY price
SELECT name FROM customers WHERE id IN (SELECT customer_id FROM orders WHERE total > 100)
SELECT name FROM customers WHERE NOT id IN (SELECT customer_id FROM orders)
SELECT name FROM customers c WHERE EXISTS (SELECT 1 FROM orders o WHERE o.customer_id = c.id)
SELECT name FROM customers c WHERE NOT EXISTS (SELECT * FROM orders o WHERE o.customer_id = c.id)
SELECT AVG(n) FROM (SELECT customer_id, COUNT(*) AS n FROM orders GROUP BY customer_id) AS counts
SELECT counts.n FROM (SELECT customer_id, COUNT(*) AS n FROM orders GROUP BY customer_id) AS counts WHERE counts.n > 3
SELECT c.name, s.n FROM customers c JOIN (SELECT customer_id, COUNT(*) AS n FROM orders GROUP BY customer_id) s ON s.customer_id = c.id
WITH spent AS (SELECT customer_id, SUM(total) AS amount FROM orders GROUP BY customer_id) SELECT MAX(amount) FROM spent
WITH spent AS (SELECT customer_id, SUM(total) AS amount FROM orders GROUP BY customer_id), big AS (SELECT * FROM spent WHERE amount > 100) SELECT c.name FROM big b JOIN customers c ON c.id = b.customer_id
WITH monthly(m, n) AS (SELECT DATE_TRUNC('month', order_date), COUNT(*) FROM orders GROUP BY 1) SELECT m, n FROM monthly ORDER BY m
SELECT city FROM customers UNION SELECT country FROM customers
SELECT city FROM customers UNION ALL SELECT country FROM customers ORDER BY 1 LIMIT 3
SELECT id FROM customers EXCEPT SELECT customer_id FROM orders
SELECT id FROM customers INTERSECT SELECT customer_id FROM orders WHERE total > 10
SELECT title, CASE WHEN price > 100 THEN 'expensive' WHEN price > 10 THEN 'fair' ELSE 'cheap' END AS level FROM products
SELECT SUM(CASE WHEN status = 'returned' THEN 1 ELSE 0 END) / COUNT(*) FROM orders
SELECT 100.0 * SUM(CASE WHEN status = 'returned' THEN 1 ELSE 0 END) / COUNT(*) AS share FROM orders
SELECT CASE status WHEN 'new' THEN 1 ELSE 2 END FROM orders
SELECT COUNT(*) FILTER (WHERE status = 'paid') FROM orders
SELECT category, SUM(stock) FILTER (WHERE price < 5) AS n FROM products GROUP BY category
SELECT title, RANK() OVER (ORDER BY price DESC) FROM products
SELECT title, ROW_NUMBER() OVER (PARTITION BY category ORDER BY price DESC) AS place FROM products
SELECT title FROM products QUALIFY ROW_NUMBER() OVER (PARTITION BY category ORDER BY price DESC) = 1
SELECT order_date, SUM(total) OVER (ORDER BY order_date ROWS BETWEEN 2 PRECEDING AND CURRENT ROW) FROM orders
SELECT id, total - LAG(total, 1) OVER (PARTITION BY customer_id ORDER BY order_date) AS change FROM orders
SELECT category, SUM(price), RANK() OVER (ORDER BY SUM(price) DESC) FROM products GROUP BY category
SELECT category, SUM(price) / SUM(SUM(price)) OVER () AS share FROM products GROUP BY category
SELECT YEAR(order_date) AS y, COUNT(*) FROM orders GROUP BY y ORDER BY y
SELECT DATE_TRUNC('month', order_date) AS m, SUM(total) FROM orders GROUP BY m ORDER BY m
SELECT EXTRACT(MONTH FROM order_date), COUNT(*) FROM orders GROUP BY 1
SELECT COUNT(*) FROM orders WHERE order_date >= DATE '2024-01-01' AND order_date < DATE '2024-02-01'
SELECT COUNT(*) FROM orders WHERE order_date >= '2024-01-01'
SELECT COUNT(*) FROM orders WHERE order_date > CURRENT_DATE - INTERVAL 30 DAY
SELECT STRFTIME(order_date, '%Y-%m') AS m, AVG(total) FROM orders GROUP BY m
SELECT DATE_DIFF('day', c.joined, o.order_date) FROM customers c JOIN orders o ON o.customer_id = c.id
SELECT DAYNAME(order_date), COUNT(*) AS n FROM orders GROUP BY DAYNAME(order_date) ORDER BY n DESC
SELECT MIN(order_date), MAX(order_date) FROM orders
SELECT UPPER(name), LENGTH(city) FROM customers
SELECT name || ' (' || city || ')' FROM customers
SELECT CONCAT(name, ', ', city) FROM customers WHERE STARTS_WITH(name, 'A')
SELECT COALESCE(email, 'none') FROM customers
SELECT SPLIT_PART(email, '@', 2) AS domain, COUNT(*) FROM customers GROUP BY domain
SELECT SUBSTRING(name, 1, 3) FROM customers WHERE REGEXP_MATCHES(email, '^[a-z]+@')
SELECT ROUND(AVG(price), 2) FROM products
SELECT CAST(price AS INTEGER), price::VARCHAR FROM products
SELECT TRY_CAST(name AS DOUBLE) FROM customers
SELECT price * 1.2 - 3 AS gross, -price, (price + stock) % 7 FROM products
SELECT ABS(price - 10) FROM products ORDER BY ABS(price - 10) LIMIT 1
SELECT total / NULLIF(customer_id, 0) FROM orders
SELECT MEDIAN(total), STDDEV(total), QUANTILE_CONT(total, 0.9) FROM orders
SELECT ARG_MAX(title, price) FROM products
SELECT category, STRING_AGG(title, ', ' ORDER BY title) FROM products GROUP BY category
SELECT country, city, COUNT(*) FROM customers GROUP BY ROLLUP (country, city)
SELECT name FROM customers WHERE (city = 'Lima' OR city = 'Quito') AND country != 'Chile'
SELECT title FROM products WHERE category = 'toys' AND (price < 5 OR (stock = 0 AND price >= 20))
SELECT name FROM customers ORDER BY joined NULLS LAST LIMIT 1
SELECT total > 100 FROM orders
SELECT name, (SELECT COUNT(*) FROM orders o WHERE o.customer_id = c.id) AS n FROM customers c ORDER BY n DESC
SELECT o.* FROM orders AS o WHERE o.total >= ALL (SELECT total FROM orders)
SELECT COUNT(*) FROM customers WHERE active
SELECT name FROM customers WHERE active = TRUE AND NOT city = 'Oslo'
SELECT city, SUM(active), BOOL_OR(active), MIN(active) FROM customers GROUP BY city
SELECT name FROM customers WHERE NOT active OR active IS NULL
SELECT name, COALESCE(active, FALSE) FROM customers WHERE joined IN ('2024-01-01', '2024-02-01')
SELECT name || ' since ' || joined FROM customers
