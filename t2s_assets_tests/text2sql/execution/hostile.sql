# Queries that must not do what they ask for. One a line; a line that starts with # names the rule of the guard
# that refuses those below it, or "limits" where the guard lets them through and the limits have to stop them.
# \n \r \t \0 and \uXXXX stand for characters; {out} for a folder that exists, {canary} for a file that exists.

# table: files read
SELECT * FROM read_text('{canary}')
SELECT * FROM read_blob('{canary}')
SELECT * FROM read_csv('{canary}')
SELECT * FROM read_csv_auto('{canary}', header = false)
SELECT * FROM sniff_csv('{canary}')
SELECT * FROM read_parquet('{canary}')
SELECT * FROM parquet_scan('{canary}')
SELECT * FROM parquet_metadata('{canary}')
SELECT * FROM parquet_schema('{canary}')
SELECT * FROM read_json('{canary}')
SELECT * FROM read_json_auto('{canary}')
SELECT * FROM read_ndjson('{canary}')
SELECT * FROM read_json_objects('{canary}')
SELECT * FROM glob('{out}/*')
SELECT * FROM '{canary}'
SELECT * FROM "{canary}"
SELECT * FROM '{out}/*.csv'
SELECT * FROM "/etc/passwd"
FROM '{canary}'
FROM read_text('{canary}') SELECT content
SELECT (SELECT content FROM read_text('{canary}'))
SELECT * FROM "table" WHERE "Name" IN (SELECT content FROM read_text('{canary}'))
SELECT * FROM "table" WHERE EXISTS (SELECT 1 FROM read_text('{canary}') WHERE content LIKE '%a%')
SELECT * FROM "table" AS t, LATERAL (SELECT content FROM read_text('{canary}')) AS f
SELECT * FROM "table" JOIN '{canary}' ON true
WITH f AS (SELECT * FROM read_text('{canary}')) SELECT * FROM f
SELECT "Name" FROM "table" UNION ALL SELECT content FROM read_text('{canary}')
VALUES ((SELECT content FROM read_text('{canary}')))
SELECT * FROM "table" ORDER BY (SELECT content FROM read_text('{canary}'))
SELECT * FROM "table" LIMIT (SELECT length(content) FROM read_text('{canary}'))
SELECT "Name", count(*) FROM "table" GROUP BY "Name" HAVING count(*) > (SELECT length(content) FROM read_text('{canary}'))
SELECT sum(length("Name")) OVER (ORDER BY (SELECT size FROM read_text('{canary}'))) FROM "table"
SELECT CASE WHEN true THEN (SELECT content FROM read_text('{canary}')) END
SELECT * FROM (((SELECT * FROM read_text('{canary}'))))
SELECT * FROM read_text(['{canary}', '/etc/hostname'])
SELECT * FROM "https://example.com/x.parquet"
SELECT * FROM 's3://bucket/x.parquet'
SELECT * FROM read_csv('https://example.com/x.csv')
SELECT * FROM '/proc/self/environ'
SELECT * FROM read_text('/proc/self/environ')
SELECT * FROM read_text('/proc/self/mem')
SELECT * FROM read_text('/dev/zero')
SELECT * FROM "read_text"('{canary}')
SELECT * FROM ReAd_TeXt('{canary}')
SELECT * FROM read_text   ('{canary}')
SELECT * FROM read_text/* */('{canary}')
SELECT * FROM read_text -- a comment\n('{canary}')
WITH read_text(content) AS (SELECT 1) SELECT * FROM read_text('{canary}')
WITH c AS (SELECT 1 AS "read_text") SELECT * FROM "read_text"('{canary}') AS "read_text"(a, b, c, d)

# statement: files written
COPY (SELECT 1) TO '{out}/stolen.csv'
COPY "table" TO '{out}/stolen.parquet' (FORMAT parquet)
COPY "table" FROM '{canary}'
EXPORT DATABASE '{out}/stolen'
IMPORT DATABASE '{out}'
ATTACH '{out}/new.db'
ATTACH '{out}/new.db' AS other (READ_ONLY)
ATTACH ':memory:' AS other
DETACH memory
USE memory
CREATE TABLE stolen AS SELECT * FROM read_text('{canary}')
CREATE TABLE stolen AS SELECT 1
CREATE TEMP TABLE stolen AS SELECT 1
CREATE OR REPLACE TABLE "table" AS SELECT 1
CREATE VIEW v AS SELECT * FROM '{canary}'
CREATE MACRO f(a) AS a + 1
CREATE SECRET s (TYPE s3, KEY_ID 'a', SECRET 'b')
CREATE PERSISTENT SECRET s (TYPE http, BEARER_TOKEN 'b')
CREATE TYPE mood AS ENUM ('a', 'b')
CREATE SEQUENCE s
CREATE SCHEMA s
CREATE INDEX i ON "table" ("Name")
DROP TABLE "table"
DROP TABLE IF EXISTS "table"
ALTER TABLE "table" ADD COLUMN x INT
ALTER TABLE "table" RENAME TO other
TRUNCATE "table"
DELETE FROM "table"
UPDATE "table" SET "Name" = 'x'
INSERT INTO "table" VALUES ('x', 1, 1)
MERGE INTO "table" USING "table" AS s ON true WHEN MATCHED THEN DELETE
COMMENT ON TABLE "table" IS 'x'
VACUUM
CHECKPOINT
FORCE CHECKPOINT
ANALYZE

# statement: extensions, settings and sessions
INSTALL httpfs
FORCE INSTALL httpfs FROM 'http://example.com'
LOAD httpfs
LOAD '{out}/evil.duckdb_extension'
UPDATE EXTENSIONS
PRAGMA database_list
PRAGMA enable_logging
PRAGMA memory_limit='100GB'
PRAGMA enable_profiling='json'
PRAGMA table_info('table')
SET memory_limit = '100GB'
SET threads = 64
SET enable_external_access = true
SET lock_configuration = false
SET GLOBAL temp_directory = '{out}'
SET VARIABLE x = 1
RESET memory_limit
CALL duckdb_settings()
CALL enable_logging()
CALL pragma_version()
BEGIN TRANSACTION
COMMIT
ROLLBACK
PREPARE p AS SELECT 1
EXECUTE p
DEALLOCATE p
EXPLAIN SELECT 1
EXPLAIN ANALYZE SELECT * FROM "table"
DESCRIBE "table"
SHOW TABLES
SHOW ALL TABLES
SUMMARIZE "table"
TABLE "table"
PIVOT "table" ON "Name" USING sum("Year")
UNPIVOT "table" ON "Year" INTO NAME n VALUE v

# statement: more than one statement
SELECT 1; SELECT 2
SELECT 1; DROP TABLE "table"
SELECT "Name" FROM "table"; DELETE FROM "table"; --
SELECT 1;;;DROP TABLE "table";
SELECT 1 /* ; */; COPY (SELECT 1) TO '{out}/stolen.csv'
; DROP TABLE "table"

# statement: nothing, or a comment that hides something
\t\n
\u002d- SELECT 1
/* SELECT 1 */
\u002d- hello\nDROP TABLE "table"
/* hello */ DROP TABLE "table"

# comment: comments that two lexers may end in two places
SELECT 1 /* /* */ , (SELECT content FROM read_text('{canary}')) -- */ */
SELECT 1 /* unfinished
SELECT 1 -- \r , (SELECT content FROM read_text('{canary}'))
/*/**/ SELECT 1 /*/**/

# characters: encodings and quotes that hide something
SELECT $$ a $$, 1
SELECT $tag$ '; DROP TABLE "table"; -- $tag$
SELECT E'\\'; DROP TABLE "table"; --'
SELECT e'\\x27', 1
SELECT X'00'
SELECT U&'\\0027'
SELECT '\0'
SELECT "a\0b" FROM "table"
SELECT\u00a01
SELECT\u20031
\ufeffSELECT 1
SELECT 1\u037e DROP TABLE "table"
SELECT \u2018a\u2019
SELECT \ud800
SELECT 'a\udfff'
SELECT `Name` FROM "table"
SELECT 'unfinished
SELECT "unfinished
SELECT $1
SELECT ?
SELECT @x
SELECT 5!
SELECT {'a': 1}
SELECT MAP {'a': 1}
SELECT [x FOR x IN [1, 2] IF x > 1] -> 1
SELECT list_transform([1, 2], x -> x + 1)
SELECT list_reduce([1, 2], lambda x, y: x + y)
SELECT a := 1
SELECT 1 ~ 2
SELECT 1 & 2
SELECT 1 # 2
SELECT \\x
SELECT 1_000_000_000_000
SELECT 0xFF

# function: reads the session, the disk, the catalog or another query
SELECT getenv('HOME')
SELECT getenv('T2S_CANARY')
SELECT current_setting('memory_limit')
SELECT current_setting('home_directory')
SELECT getvariable('x')
SELECT current_query()
SELECT current_database()
SELECT current_schemas(true)
SELECT txid_current()
SELECT version()
SELECT nextval('s')
SELECT in_search_path('memory', 'main')
SELECT pg_get_viewdef('x')
SELECT has_table_privilege('table', 'select')
SELECT write_log('x')
SELECT parse_path('{canary}')
SELECT json_execute_serialized_sql('x')
SELECT json_serialize_sql('SELECT 1')
SELECT "getenv"('HOME')

# function: is random, or waits
SELECT random()
SELECT setseed(0.5)
SELECT uuid()
SELECT gen_random_uuid()
SELECT pg_sleep(100)
SELECT sleep_ms(100000)
SELECT error('x')

# function: makes much of little
SELECT length(repeat('x', 2000000000))
SELECT repeat(repeat('x', 100000), 100000)
SELECT length(rpad('x', 2000000000, 'y'))
SELECT length(lpad('x', 2000000000, 'y'))
SELECT length(bar(1, 0, 1, 2000000000))
SELECT length(printf('%2000000000d', 1))
SELECT length(format('{:>2000000000}', 'x'))
SELECT len(range(1000000000))
SELECT len(generate_series(1, 1000000000))
SELECT len(list_resize([1], 1000000000))
SELECT len(array_resize([1], 1000000000))
SELECT list_sum(range(1000000000))
SELECT unnest(range(1000000000))
SELECT "repeat"('x', 2000000000)
SELECT repeat('x', 2000000000) FROM "table" AS repeat(a, b, c)
SELECT repeat('x', 2000000000) FROM (VALUES (1)) AS "Repeat"(a)
WITH repeat(a) AS (SELECT 1) SELECT length(repeat('x', 2000000000)) FROM repeat
SELECT getenv('HOME') FROM "table" AS getenv(a, b, c)
SELECT "RePeAt" ('x', 2000000000)
SELECT repeat\n\n('x', 2000000000)
SELECT list_aggregate(range(100000000), 'sum')
SELECT struct_pack(a, 1)
SELECT COLUMNS('N.*') FROM "table"
SELECT COLUMNS(*) FROM "table"
SELECT * FROM "table" WHERE COLUMNS(*) IS NOT NULL
SELECT unnest([1, 2])
SELECT * FROM unnest([1, 2, 3])

# table: rows out of nothing, queries as text, the catalog
SELECT sum(range) FROM range(1000000000000)
SELECT count(*) FROM generate_series(1, 1000000000000)
SELECT * FROM repeat(1, 1000000000000)
SELECT * FROM repeat_row(1, 2)
SELECT * FROM query('DROP TABLE "table"')
SELECT * FROM query('SELECT * FROM read_text(''{canary}'')')
SELECT * FROM query_table('table')
SELECT * FROM query_table(['table', 'table'])
SELECT * FROM json_execute_serialized_sql('x')
SELECT * FROM duckdb_settings()
SELECT * FROM duckdb_secrets()
SELECT * FROM duckdb_tables()
SELECT * FROM duckdb_extensions()
SELECT * FROM duckdb_functions()
SELECT * FROM duckdb_temporary_files()
SELECT * FROM duckdb_logs
SELECT * FROM enable_logging()
SELECT * FROM enable_profiling()
SELECT * FROM force_checkpoint()
SELECT * FROM checkpoint()
SELECT * FROM pragma_database_list
SELECT * FROM pragma_database_list()
SELECT * FROM pragma_table_info('table')
SELECT * FROM pragma_storage_info('table')
SELECT * FROM pragma_user_agent()
SELECT * FROM seq_scan('table')
SELECT * FROM arrow_scan(1, 2, 3)
SELECT * FROM python_map_function(1)
SELECT * FROM pandas_scan(1)
SELECT * FROM sqlite_master
SELECT * FROM sqlite_schema
SELECT * FROM pg_tables
SELECT * FROM pg_class
SELECT * FROM duckdb_tables
SELECT * FROM duckdb_columns
SELECT * FROM duckdb_databases
SELECT * FROM other
SELECT * FROM sys
SELECT * FROM __t2s_source__
SELECT * FROM test_all_types()
SELECT * FROM summary((SELECT 1))
SELECT * FROM histogram("table", "Name")
WITH c AS (SELECT * FROM pg_tables), pg_tables AS (SELECT 1) SELECT * FROM c
SELECT * FROM pg_tables WHERE EXISTS (WITH pg_tables AS (SELECT 1) SELECT * FROM pg_tables)
WITH pg_tables AS (SELECT * FROM pg_tables) SELECT * FROM pg_tables

# qualified name: the catalog by its address
SELECT * FROM information_schema.tables
SELECT * FROM pg_catalog.pg_tables
SELECT * FROM main."table"
SELECT * FROM memory.main."table"
SELECT * FROM system.information_schema.schemata
SELECT * FROM temp.main."table"
SELECT main."table"."Name" FROM "table"
SELECT memory.main."table"."Name" FROM "table"

# session: who runs this
SELECT current_user
SELECT session_user
SELECT "current_user" FROM "table"
SELECT "Current_Catalog" FROM races
SELECT max("current_schema") FROM "table"
SELECT "Name" FROM "table" WHERE "user" = 'duckdb'
SELECT "Name" FROM "table" WHERE "Year" > 1990 AND "session_user" <> ''
SELECT current_schema
SELECT current_catalog
SELECT "current_database"
SELECT user

# recursion: rows without end
WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r
WITH RECURSIVE r(n) AS (SELECT 1 UNION SELECT n + 1 FROM r) SELECT * FROM r
SELECT * FROM (WITH RECURSIVE r AS (SELECT 'x' AS s UNION ALL SELECT s || s FROM r) SELECT length(s) FROM r)

# construct: SELECTs that do more, or that nobody has checked
SELECT * INTO stolen FROM "table"
SELECT * FROM "table" FOR UPDATE
SELECT * FROM "table" TABLESAMPLE 10%
SELECT * FROM "table" USING SAMPLE 1
SELECT 'HOME'.getenv()
SELECT "Name".getenv() FROM "table"
SELECT 'x'.repeat(2000000000)
WITH d AS (DELETE FROM "table" RETURNING *) SELECT * FROM d
WITH i AS (INSERT INTO "table" VALUES ('x', 1, 1) RETURNING *) SELECT * FROM i
SELECT 'x'::regclass
SELECT CAST('a' AS ENUM('a'))
SELECT "Name" GLOB '*' FROM "table"
SELECT * FROM (PIVOT "table" ON "Name" USING sum("Year"))

# syntax: what is no SQL
SELECT FROM WHERE
SELECT * FROM "table" WHERE
SELECT ((((1)))
SELECT 1)
SELECT [1

# limits: cross joins and work without end
SELECT count(*) FROM big a, big b, big c
SELECT sum(a.n * b.n) FROM big a CROSS JOIN big b CROSS JOIN big c
SELECT max(length(a.s || b.s || c.s)) FROM big a, big b, big c
SELECT count(*) FROM big a JOIN big b ON a.n <> b.n JOIN big c ON b.n <> c.n
SELECT count(DISTINCT a.n * 1000003 + b.n * 1009 + c.n) FROM big a, big b, big c
SELECT sum(levenshtein(a.s, b.s)) FROM big a, big b, big c
SELECT a.n FROM big a, big b, big c ORDER BY sin(a.n * b.n * c.n) LIMIT 5
SELECT a.n, row_number() OVER (ORDER BY a.n * b.n) FROM big a, big b, big c
SELECT count(*) FROM big a WHERE (SELECT count(*) FROM big b, big c WHERE b.n + c.n <> a.n) > 5

# limits: much memory
SELECT string_agg(a.s || b.s || c.s, ',') FROM big a, big b, big c
SELECT length(string_agg(a.s, ',')) FROM big a, big b, big c
SELECT list(a.s || b.s) FROM big a, big b
SELECT array_agg(a.n) FROM big a, big b, big c
SELECT a.s, list(b.s || c.s) FROM big a, big b, big c GROUP BY a.s
SELECT length(a || a) FROM (SELECT b || b || b || b || b || b || b || b AS a FROM (SELECT string_agg(s || s || s || s, '') AS b FROM (SELECT x.s FROM big x, big y)))
WITH a AS (SELECT string_agg(s, '') AS t FROM big), b AS (SELECT t || t || t || t || t || t || t || t AS t FROM a), c AS (SELECT t || t || t || t || t || t || t || t AS t FROM b), d AS (SELECT t || t || t || t || t || t || t || t AS t FROM c), e AS (SELECT t || t || t || t || t || t || t || t AS t FROM d) SELECT length(t || t || t || t || t || t || t || t) FROM e
SELECT length(replace(replace(replace(replace(string_agg(s, ''), 'a', 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'), 'a', 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'), 'a', 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'), 'a', 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa')) FROM big
SELECT regexp_replace(regexp_replace(string_agg(s, ''), '.', '\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0', 'g'), '.', '\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0', 'g') FROM big
SELECT quantile_cont(a.n * b.n, 0.5) FROM big a, big b, big c
SELECT mode(a.s || b.s) FROM big a, big b

# construct: statements that DuckDB reads as queries after a bracket
SELECT (SHOW memory_limit)
SELECT (show secret_directory)
SELECT (SHOW DATABASES)
SELECT (DESC TABLES)
SELECT ((SHOW\n/* x */ memory_limit))
SELECT CASE WHEN 1 = 1 THEN (SHOW lock_configuration) END
SELECT * FROM "table" WHERE "Name" = (SHOW username)
SELECT (DESCRIBE "table")
SELECT (SUMMARIZE "table")
WITH "show" AS (SELECT 1) SELECT * FROM (SHOW all)
WITH "desc" AS (SELECT 1) SELECT * FROM (DESC pg_am)
WITH "desc" AS (SELECT 1) SELECT * FROM (DESC "{canary}")
WITH "desc" AS (SELECT 1) SELECT * FROM (DESC '{canary}')

# table: names that only other alphabets' capitals make the same
WITH "duc\u212adb_tables" AS (SELECT 1) SELECT * FROM duckdb_tables
WITH "duc\u212adb_logs" AS (SELECT 1) SELECT * FROM duckdb_logs

# limits: large results
SELECT a.s, b.s FROM big a, big b
SELECT a.*, b.*, c.* FROM big a, big b, big c
SELECT string_agg(s || s || s || s, '') FROM big
