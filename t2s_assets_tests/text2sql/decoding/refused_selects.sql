SELECT nope FROM customers
SELECT name FROM nope
SELECT name FROM customers WHERE nope = 3
SELECT name FROM customers ORDER BY nope
SELECT c.nope FROM customers AS c
SELECT orders.name FROM orders
SELECT name FROM customers AS c JOIN nope AS n ON n.id = c.id
SELECT city FROM customers GROUP BY nope
SELECT SUM(name) FROM customers
SELECT name FROM customers WHERE SUM(id) > 3
SELECT name FROM customers WHERE COUNT(*) > 3
SELECT name FROM customers WHERE id LIKE 'x'
SELECT SUM(SUM(id)) FROM customers
SELECT name FROM customers WHERE
SELECT name, FROM customers
DROP TABLE customers
INSERT INTO customers VALUES (1)
SELECT READ_CSV('/etc/passwd') FROM customers
SELECT name FROM customers; SELECT 1
SELECT GETENV('HOME') FROM customers
SELECT name FROM customers WHERE id IN (SELECT nope FROM orders)
SELECT name FROM read_csv('x.csv')
SELECT "nope" FROM customers
SELECT LOWER(joined) FROM customers
SELECT YEAR(name) FROM customers
SELECT name FROM customers WHERE joined LIKE '2024%'
SELECT name FROM customers WHERE city
SELECT c.name FROM customers AS orders JOIN customers AS c ON c.id = orders.id
