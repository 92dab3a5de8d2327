-- What analysts write. One query a line; all must pass the guard and give what DuckDB gives without it.
-- races(id, name, city, starts, opens_at, fee, distance, active), runs(race_id, runner, seconds, finished_at, club), "table"("Name", "Year", "Points, total")
SELECT "Name" FROM "table" WHERE "Year" > 1990
SELECT MAX("Points, total") FROM "table" WHERE "Name" = 'anna' AND "Year" < 2010
SELECT COUNT("Name") FROM "table"
SELECT COUNT(*) FROM "table" WHERE "Points, total" IS NULL
SELECT DISTINCT "Name" FROM "table" ORDER BY "Name" DESC NULLS LAST
SELECT "Name" FROM "table" WHERE "Name" LIKE 'A%' OR "Name" ILIKE '%b%' ORDER BY 1
SELECT "Name" FROM "table" WHERE "Name" IN ('Anna', 'O''Hara', 'Göran') ORDER BY 1;
SELECT "Name" FROM "table" WHERE "Year" BETWEEN 1995 AND 2005 AND NOT "Name" = 'Bo' ORDER BY "Name" -- the middle years
/* totals */ SELECT SUM("Points, total") /* of all */ FROM "table"
select "table"."Name", "Year" from "table" order by "Year" asc nulls first, 1 limit 3 offset 1
SELECT t.* FROM "table" AS t WHERE t."Year" >= -1 AND t."Year"<=2050 ORDER BY ALL
SELECT * EXCLUDE ("Year") FROM "table" ORDER BY ALL
SELECT * REPLACE (upper("Name") AS "Name") FROM "table" ORDER BY ALL
FROM races SELECT name ORDER BY name
FROM races ORDER BY id
SELECT r.name, count(*) AS n FROM races r JOIN runs u ON u.race_id = r.id GROUP BY r.name ORDER BY n DESC, r.name
SELECT r.name FROM races r LEFT JOIN runs u ON u.race_id = r.id WHERE u.runner IS NULL ORDER BY r.name
SELECT a.name, b.name FROM races a, races b WHERE a.id < b.id AND a.city = b.city ORDER BY ALL
SELECT name FROM races SEMI JOIN runs ON runs.race_id = races.id ORDER BY name
SELECT name FROM races ANTI JOIN runs ON runs.race_id = races.id ORDER BY name
SELECT a.runner, b.runner FROM runs a FULL OUTER JOIN runs b ON a.seconds < b.seconds AND a.race_id = b.race_id ORDER BY ALL
SELECT runner, name FROM runs JOIN (SELECT id AS race_id, name FROM races) USING (race_id) ORDER BY ALL
SELECT u.runner, r.name FROM runs u ASOF JOIN races r ON u.finished_at >= r.opens_at ORDER BY ALL
SELECT city, avg(fee) FROM races GROUP BY city HAVING avg(fee) > 10 ORDER BY city
SELECT city, active, sum(fee) FROM races GROUP BY ALL ORDER BY ALL
SELECT city, active, count(*), grouping(city) FROM races GROUP BY ROLLUP (city, active) ORDER BY ALL
SELECT city, active, count(*) FROM races GROUP BY CUBE (city, active) ORDER BY ALL
SELECT city, active, count(*) FROM races GROUP BY GROUPING SETS ((city), (active), ()) ORDER BY ALL
SELECT count(*) FILTER (WHERE active) AS open, count(*) FILTER (WHERE NOT active) AS closed FROM races
SELECT count(DISTINCT city), string_agg(DISTINCT city, ', ' ORDER BY city) FROM races
SELECT list(name ORDER BY name), array_agg(id ORDER BY id) FROM races
SELECT arg_max(name, fee), min_by(name, distance), any_value(active) FROM races WHERE fee IS NOT NULL AND id < 3
SELECT median(seconds), mode(club), stddev_samp(seconds), var_pop(seconds), quantile_cont(seconds, 0.9) FROM runs WHERE club = 'IFK'
SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds) FROM runs
SELECT corr(id, fee), regr_slope(fee, id), covar_samp(id, fee) FROM races
SELECT bool_or(active), bool_and(active), approx_count_distinct(city) FROM races
WITH fast AS (SELECT race_id, min(seconds) AS best FROM runs GROUP BY race_id) SELECT name, best FROM races JOIN fast ON race_id = id ORDER BY name
WITH a AS (SELECT id FROM races WHERE active), b AS (SELECT * FROM a WHERE id > 1) SELECT count(*) FROM b
WITH c(city, n) AS (SELECT city, count(*) FROM races GROUP BY city) SELECT city FROM c WHERE n = (SELECT max(n) FROM c) ORDER BY city
WITH m AS MATERIALIZED (SELECT fee FROM races) SELECT sum(fee) FROM m
SELECT name FROM races WHERE id IN (SELECT race_id FROM runs WHERE seconds < 4000) ORDER BY name
SELECT name FROM races r WHERE EXISTS (SELECT 1 FROM runs u WHERE u.race_id = r.id AND u.club = 'IFK') ORDER BY name
SELECT name, (SELECT max(seconds) FROM runs WHERE race_id = races.id) AS slowest FROM races ORDER BY name
SELECT name FROM races WHERE fee > ALL (SELECT fee FROM races WHERE city = 'Oslo' AND fee IS NOT NULL) ORDER BY name
SELECT name FROM races WHERE fee = ANY (SELECT max(fee) FROM races GROUP BY city) ORDER BY name
SELECT r.name, f.runner FROM races r, LATERAL (SELECT runner FROM runs WHERE race_id = r.id ORDER BY seconds LIMIT 1) AS f ORDER BY ALL
SELECT runner, rank() OVER (PARTITION BY race_id ORDER BY seconds) AS place FROM runs ORDER BY ALL
SELECT runner, seconds, lag(seconds) OVER w, lead(seconds, 1, 0) OVER w, sum(seconds) OVER w FROM runs WINDOW w AS (PARTITION BY race_id ORDER BY seconds, runner) ORDER BY ALL
SELECT runner, avg(seconds) OVER (ORDER BY finished_at, runner ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM runs ORDER BY ALL
SELECT runner, count(*) OVER (ORDER BY finished_at RANGE BETWEEN INTERVAL 1 DAY PRECEDING AND CURRENT ROW) FROM runs ORDER BY ALL
SELECT runner, ntile(2) OVER (ORDER BY seconds, runner), percent_rank() OVER (ORDER BY seconds), cume_dist() OVER (ORDER BY seconds) FROM runs ORDER BY ALL
SELECT race_id, runner FROM runs QUALIFY row_number() OVER (PARTITION BY race_id ORDER BY seconds, runner) = 1 ORDER BY ALL
SELECT first_value(runner) OVER (PARTITION BY race_id ORDER BY seconds, runner), nth_value(runner, 2) OVER (PARTITION BY race_id ORDER BY seconds, runner) FROM runs ORDER BY ALL
SELECT city FROM races UNION SELECT club FROM runs ORDER BY 1
SELECT city FROM races UNION ALL BY NAME SELECT club AS city FROM runs ORDER BY 1
(SELECT id FROM races) EXCEPT (SELECT race_id FROM runs) ORDER BY 1
SELECT id FROM races INTERSECT SELECT race_id FROM runs ORDER BY 1
SELECT DISTINCT ON (city) city, name FROM races ORDER BY city, name
SELECT name, CASE WHEN fee IS NULL THEN 'unknown' WHEN fee > 20 THEN 'dear' ELSE 'cheap' END AS price FROM races ORDER BY name
SELECT CASE city WHEN 'Oslo' THEN 1 ELSE 0 END AS o, if(active, 'y', 'n') FROM races ORDER BY ALL
SELECT coalesce(fee, 0), nullif(city, 'Oslo'), ifnull(fee, -1), greatest(id, 2), least(id, 2) FROM races ORDER BY ALL
SELECT year(starts), month(starts), dayname(starts), extract(year FROM starts), date_part('week', starts) FROM races ORDER BY ALL
SELECT date_trunc('month', starts) AS m, count(*) FROM races GROUP BY m ORDER BY m
SELECT starts + INTERVAL 1 MONTH, starts - INTERVAL '2 days', starts - DATE '2024-01-01' FROM races ORDER BY ALL
SELECT date_diff('day', starts, DATE '2025-01-01'), strftime(starts, '%d.%m.%Y'), last_day(starts) FROM races ORDER BY ALL
SELECT opens_at::DATE, opens_at::TIME, epoch(opens_at), hour(opens_at), opens_at AT TIME ZONE 'UTC' FROM races ORDER BY ALL
SELECT strptime('24/12/2024', '%d/%m/%Y'), try_strptime('x', '%Y'), make_date(2024, 2, 29), TIMESTAMP '2024-01-01 10:00:00.25'
SELECT age(DATE '2024-03-01', DATE '2023-01-15'), time_bucket(INTERVAL '1 week', DATE '2024-03-01')
SELECT name FROM races WHERE starts BETWEEN DATE '2024-01-01' AND '2024-12-31' ORDER BY name
SELECT lower(name), upper(name), length(name), trim('  x '), left(name, 3), right(name, 2), reverse(name) FROM races ORDER BY ALL
SELECT substring(name FROM 1 FOR 3), substr(name, 2), position('a' IN name), strpos(name, 'a'), split_part(name, ' ', 1) FROM races ORDER BY ALL
SELECT replace(name, ' ', '_'), regexp_replace(name, '[aeiou]', '', 'g'), regexp_matches(name, '^B'), regexp_extract(name, '(\w+)', 1) FROM races ORDER BY ALL
SELECT name || ' in ' || city, concat(name, 1, NULL), concat_ws(', ', name, city), starts_with(name, 'B') FROM races ORDER BY ALL
SELECT name COLLATE NOCASE, strip_accents('Göteborg'), ascii('a'), chr(65), levenshtein('kitten', 'sitting') FROM races ORDER BY ALL
SELECT name SIMILAR TO 'B.*', name LIKE 'B!_%' ESCAPE '!', name NOT LIKE 'x', name IS DISTINCT FROM city FROM races ORDER BY ALL
SELECT round(fee, 1), floor(fee), ceil(fee), abs(-fee), sqrt(id), power(id, 2), id % 2, id // 2, id / 2, 2 ** id, ln(id), exp(1) FROM races ORDER BY ALL
SELECT CAST(fee AS INTEGER), fee::VARCHAR, TRY_CAST(name AS DOUBLE), '12'::INT + 1, CAST(id AS DECIMAL(10, 2)), 1e3, .5, 1. FROM races ORDER BY ALL
SELECT try_cast(replace('1,234.5', ',', '') AS DOUBLE), '-3'::DOUBLE, 1 = 1.0, NULL IS NULL, TRUE AND FALSE, NOT TRUE
SELECT [1, 2, 3], [1, 2, 3][1], list_contains([1, 2], 2), len([1, 2]), string_split('a,b', ','), list_sort([3, 1, 2]), list_slice([1, 2, 3], 2, 3)
SELECT x, y FROM (VALUES (1, 'a'), (2, 'b')) AS v(x, y) WHERE x > 1
VALUES (1, 'a'), (2, 'b')
SELECT sum(n) FROM (SELECT count(*) AS n FROM races GROUP BY city) AS counts
SELECT name FROM races ORDER BY fee * 2 DESC NULLS LAST, name FETCH FIRST 2 ROWS ONLY
SELECT name FROM races ORDER BY name LIMIT 50%
SELECT ((1 + 2) * (3 - -4)) / 7.0, - - 1, +1, 7^2, 5 != 4, 5 <> 4, 5 == 5
SELECT fee, fee * 1.25, sum(fee) OVER (), avg(distance) OVER (PARTITION BY city) FROM races ORDER BY ALL
SELECT 'SELECT * FROM read_csv(''x'')' AS looks_bad, 'a -- b', 'c /* d', '; DROP TABLE races', '$1 ? @ \'
SELECT sum(CASE WHEN active THEN fee ELSE 0 END) / count(*) AS share, count_if(active) FROM races
SELECT a.club, a.n FROM (SELECT club, count(*) n FROM runs GROUP BY club) a ORDER BY a.n DESC, a.club LIMIT 1
