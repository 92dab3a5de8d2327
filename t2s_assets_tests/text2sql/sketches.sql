-- SQL over t(Name text, Year real, "Max Weight (kg)" text, "odd ""name""" text, "select" text), and in the next line
-- the structured query that it means, or after `!` the reason why it means none (a part of the message).

SELECT "Name" FROM t
{"sel": 0, "agg": 0, "conds": []}

select name from T;
{"sel": 0, "agg": 0, "conds": []}

SELECT "NAME" FROM "t" ;;
{"sel": 0, "agg": 0, "conds": []}

FROM t SELECT Name
{"sel": 0, "agg": 0, "conds": []}

SELECT t.Name AS answer FROM t
{"sel": 0, "agg": 0, "conds": []}

SELECT x."Name" FROM t AS x WHERE x."Year" = 1990
{"sel": 0, "agg": 0, "conds": [[1, 0, 1990]]}

SELECT /* a comment */ MAX("Year") FROM t -- another
{"sel": 1, "agg": 1, "conds": []}

SELECT min(year) FROM t
{"sel": 1, "agg": 2, "conds": []}

SELECT COUNT("odd ""name""") FROM t
{"sel": 3, "agg": 3, "conds": []}

SELECT SUM("Max Weight (kg)") FROM t
{"sel": 2, "agg": 4, "conds": []}

SELECT AVG(t."Year") AS mean FROM t
{"sel": 1, "agg": 5, "conds": []}

SELECT "select" FROM t WHERE "select" = 'select'
{"sel": 4, "agg": 0, "conds": [[4, 0, "select"]]}

SELECT "Name" FROM t WHERE "Year" > 1990 AND "Name" = 'O''Brien'
{"sel": 0, "agg": 0, "conds": [[1, 1, 1990], [0, 0, "O'Brien"]]}

SELECT "Name" FROM t WHERE ((("Year" < -3.50)) AND (("Name" = '') AND "Year" > .5))
{"sel": 0, "agg": 0, "conds": [[1, 2, -3.5], [0, 0, ""], [1, 1, 0.5]]}

SELECT "Name" FROM t WHERE 1990 < "Year" AND 'a' = "Name"
{"sel": 0, "agg": 0, "conds": [[1, 1, 1990], [0, 0, "a"]]}

SELECT "Name" FROM t WHERE "Year" == 1e3
{"sel": 0, "agg": 0, "conds": [[1, 0, 1000.0]]}

SELECT "Name" FROM t WHERE "Name" = 'a\'
{"sel": 0, "agg": 0, "conds": [[0, 0, "a\\"]]}

SELECT "Name" FROM t WHERE "Name" = '-- no comment; DROP TABLE t'
{"sel": 0, "agg": 0, "conds": [[0, 0, "-- no comment; DROP TABLE t"]]}

SELECT "Name" FROM t WHERE "Name" = 'åsa %s {} $1 ?'
{"sel": 0, "agg": 0, "conds": [[0, 0, "åsa %s {} $1 ?"]]}

SELECT "Name" FROM t WHERE "Year" = '1990'
{"sel": 0, "agg": 0, "conds": [[1, 0, "1990"]]}

SELECT
! the only table is 't'

SELECT FROM t
! one selected column

SELECT "Name FROM t
! not DuckDB SQL

the answer is 42
! not DuckDB SQL

I think that the answer is 'Lund'
! not DuckDB SQL

SELECT 1
! the only table is 't'

SELECT "Name" FROM other
! the only table is 't'

SELECT "Name" FROM main.t
! the only table is 't'

SELECT "Name" FROM t TABLESAMPLE 10%
! no sample

SELECT b FROM t AS x(a, b, c, d, e)
! renamed columns

SELECT t.Name FROM t AS x
! no table 't'

SELECT other.Name FROM t
! no table 'other'

SELECT main.t.Name FROM t
! no table 't'

SELECT "Name" FROM t, t AS u
! no joins

SELECT "Name" FROM t JOIN t AS u ON true
! no joins

SELECT "Name" FROM (SELECT * FROM t)
! the only table is 't'

SELECT "Name", "Year" FROM t
! one selected column

SELECT * FROM t
! a column is wanted

SELECT COUNT(*) FROM t
! a column is wanted

SELECT 'Name' FROM t
! a column is wanted

SELECT COUNT(DISTINCT "Name") FROM t
! a column is wanted

SELECT MAX("Year", 3) FROM t
! an aggregate takes one column

SELECT MAX("Year") FILTER (WHERE "Year" > 3) FROM t
! a column is wanted

SELECT MAX("Year") OVER () FROM t
! a column is wanted

SELECT MAX(MIN("Year")) FROM t
! a column is wanted

SELECT "Year"::INT FROM t
! a column is wanted

SELECT "Year" + 1 FROM t
! a column is wanted

SELECT MEDIAN("Year") FROM t
! a column is wanted

SELECT "Town" FROM t
! no column 'Town' in 't'

SELECT DISTINCT "Name" FROM t
! no distinct

SELECT "Name" FROM t ORDER BY "Year" LIMIT 1
! no limit, order

SELECT "Name" FROM t GROUP BY "Name" HAVING true
! no group, having

WITH x AS (SELECT 1) SELECT "Name" FROM t
! no with

SELECT "Name" FROM t UNION SELECT "Name" FROM t
! one SELECT statement

SELECT "Name" FROM t; SELECT "Name" FROM t
! one SELECT statement

DELETE FROM t
! one SELECT statement

DROP TABLE t
! one SELECT statement

SELECT "Name" FROM t WHERE "Year" = 1 OR "Year" = 2
! a condition is column =, > or < value

SELECT "Name" FROM t WHERE NOT "Year" = 1
! a condition is column =, > or < value

SELECT "Name" FROM t WHERE "Year" >= 1
! a condition is column =, > or < value

SELECT "Name" FROM t WHERE "Year" <> 1
! a condition is column =, > or < value

SELECT "Name" FROM t WHERE "Year" BETWEEN 1 AND 2
! a condition is column =, > or < value

SELECT "Name" FROM t WHERE "Name" LIKE 'a'
! a condition is column =, > or < value

SELECT "Name" FROM t WHERE "Name" IN ('a')
! a condition is column =, > or < value

SELECT "Name" FROM t WHERE "Name" IS NULL
! a condition is column =, > or < value

SELECT "Name" FROM t WHERE true
! a condition is column =, > or < value

SELECT "Name" FROM t WHERE LOWER("Name") = 'a'
! a column is wanted

SELECT "Name" FROM t WHERE 1 = 1
! a column is wanted

SELECT "Name" FROM t WHERE "Name" = "Year"
! a value is a string or a number

SELECT "Name" FROM t WHERE "Name" = "Lund"
! a value is a string or a number

SELECT "Name" FROM t WHERE "Name" = NULL
! a value is a string or a number

SELECT "Name" FROM t WHERE "Year" = 1 + 1
! a value is a string or a number

SELECT "Name" FROM t WHERE "Year" = (SELECT MAX("Year") FROM t)
! a value is a string or a number

SELECT "Name" FROM t WHERE "Name" = e'a'
! a value is a string or a number

SELECT "Name" FROM t WHERE "Year" = 1e999
! a value is a finite number

SELECT "Name" FROM t WHERE "Town" = 'Lund'
! no column 'Town' in 't'
