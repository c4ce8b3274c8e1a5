-- A schema with something of every kind that versions print, restore or store
-- differently. The roles shop_owner and "shop app" exist.
CREATE EXTENSION IF NOT EXISTS plpgsql;
CREATE SCHEMA sales AUTHORIZATION shop_owner;
GRANT USAGE ON SCHEMA sales TO "shop app";
CREATE SCHEMA "Two ""Words""
and a line";
ALTER DEFAULT PRIVILEGES FOR ROLE shop_owner IN SCHEMA sales GRANT SELECT ON TABLES TO "shop app";
ALTER DEFAULT PRIVILEGES FOR ROLE shop_owner REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;

SET ROLE shop_owner;
CREATE TYPE sales.colour AS ENUM ('red', 'green', 'it''s "odd"');
CREATE TYPE sales.address AS (street text, zip varchar(10), at timestamptz(3));
CREATE DOMAIN sales.positive AS numeric(12, 2) DEFAULT 1 NOT NULL CONSTRAINT above CHECK (VALUE > 0);
CREATE TYPE sales.span AS RANGE (subtype = float8, subtype_diff = float8mi);

CREATE FUNCTION sales.stamp() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.changed := now();
    RETURN NEW;
END $$;
CREATE FUNCTION sales.add(a int, b int DEFAULT 1 + 2) RETURNS int LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS 'SELECT a + b';
CREATE FUNCTION sales.later(d date) RETURNS date LANGUAGE sql IMMUTABLE
    BEGIN ATOMIC SELECT d + 1; END;
CREATE PROCEDURE sales.nothing(INOUT a int) LANGUAGE plpgsql SET work_mem = '8MB' AS $$ BEGIN a := a; END $$;
CREATE AGGREGATE sales.total(int) (SFUNC = int4pl, STYPE = int, INITCOND = '0');
REVOKE EXECUTE ON FUNCTION sales.add(int, int) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sales.add(int, int) TO "shop app";

CREATE TABLE sales.customer (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name varchar(80) NOT NULL COLLATE "C",
    home sales.address,
    favourite sales.colour DEFAULT 'red',
    credit sales.positive,
    dropped int,
    tags text[] DEFAULT ARRAY['a'::text, 'b'],
    since timestamptz DEFAULT '2020-02-03 04:05:06+02',
    pause interval DEFAULT '1 day 02:03:04',
    lower_name text GENERATED ALWAYS AS (lower((name)::text)) STORED,
    CONSTRAINT name_long CHECK (length((name)::text) > 2 AND (name)::text <> ALL (ARRAY['x'::text, 'y'::text])),
    CONSTRAINT once UNIQUE (name, since) DEFERRABLE INITIALLY DEFERRED
) WITH (fillfactor = 80, autovacuum_enabled = true);
ALTER TABLE sales.customer DROP COLUMN dropped;
ALTER TABLE sales.customer ALTER COLUMN name SET STATISTICS 50;
ALTER TABLE sales.customer ALTER COLUMN tags SET STORAGE EXTERNAL;
ALTER TABLE sales.customer ALTER COLUMN id SET (n_distinct = -1);
GRANT SELECT, INSERT ON sales.customer TO "shop app" WITH GRANT OPTION;
GRANT UPDATE (name) ON sales.customer TO "shop app";
GRANT ALL ON sales.customer TO PUBLIC;
REVOKE TRUNCATE ON sales.customer FROM shop_owner;

CREATE TABLE sales."order" (
    id serial PRIMARY KEY,
    customer bigint NOT NULL,
    total numeric NOT NULL DEFAULT 0,
    changed timestamptz,
    window_ tstzrange,
    doc jsonb,
    CONSTRAINT total_positive CHECK (total >= (0)::numeric) NOT VALID,
    CONSTRAINT no_overlap EXCLUDE USING gist (window_ WITH &&)
);
ALTER TABLE sales."order" ADD CONSTRAINT of_customer FOREIGN KEY (customer) REFERENCES sales.customer
    ON DELETE CASCADE DEFERRABLE;
CREATE INDEX order_total ON sales."order" USING btree (total DESC NULLS LAST, lower((doc ->> 'a')))
    INCLUDE (customer) WHERE total > 10 AND changed IS NOT NULL;
CREATE INDEX order_doc ON sales."order" USING gin (doc jsonb_path_ops) WITH (fastupdate = off);
CREATE UNIQUE INDEX order_identity ON sales."order" (customer, id);
ALTER TABLE sales."order" REPLICA IDENTITY USING INDEX order_identity;
CREATE TRIGGER stamp BEFORE INSERT OR UPDATE OF total ON sales."order" FOR EACH ROW
    WHEN (NEW.total > 0) EXECUTE FUNCTION sales.stamp();
ALTER TABLE sales."order" ENABLE ALWAYS TRIGGER stamp;
CREATE STATISTICS sales.order_stat (ndistinct, dependencies) ON customer, total FROM sales."order";
CREATE RULE quiet AS ON DELETE TO sales."order" WHERE (OLD.total > 100) DO INSTEAD NOTHING;
ALTER TABLE sales."order" ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON sales."order" FOR SELECT TO "shop app", shop_owner
    USING (EXISTS (SELECT 1 FROM sales.customer c WHERE c.id = "order".customer AND c.name = CURRENT_USER));

CREATE TABLE sales.event (at date NOT NULL, what text, id int, PRIMARY KEY (at, id)) PARTITION BY RANGE (at);
CREATE TABLE sales.event_2025 PARTITION OF sales.event FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE sales.event_2026 PARTITION OF sales.event FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')
    PARTITION BY HASH (id);
CREATE TABLE sales.event_2026_0 PARTITION OF sales.event_2026 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE sales.event_2026_1 PARTITION OF sales.event_2026 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE sales.event_rest PARTITION OF sales.event DEFAULT;
CREATE INDEX event_what ON sales.event (what);
CREATE TRIGGER stamp_event AFTER INSERT ON sales.event FOR EACH ROW EXECUTE FUNCTION sales.stamp();
CREATE TABLE sales.mention (at date, event_id int, FOREIGN KEY (at, event_id) REFERENCES sales.event);

CREATE TABLE sales.parent (a int NOT NULL CHECK (a > 0));
CREATE TABLE sales.child (b int) INHERITS (sales.parent);
CREATE UNLOGGED TABLE sales.scratch (id serial PRIMARY KEY);

CREATE VIEW sales.big AS SELECT o.id, o.total FROM sales."order" o WHERE o.total > 1000::numeric;
CREATE VIEW sales.joined WITH (security_barrier = true) AS
    SELECT c.id, c.name, sum(o.total) AS spent, max(extract(year FROM o.changed)) AS year,
           CASE WHEN c.favourite = 'red'::sales.colour THEN 1 ELSE 0 END AS red,
           substring(c.name FROM 1 FOR 2) AS start, c.since AT TIME ZONE 'UTC' AS utc
      FROM sales.customer c LEFT JOIN (sales."order" o JOIN sales.mention m ON m.event_id = o.id) ON o.customer = c.id
     WHERE c.id IN (SELECT customer FROM sales."order") AND NOT c.name LIKE 'x%'
     GROUP BY c.id, c.name HAVING count(*) > 1 ORDER BY c.name;
CREATE VIEW sales.recursive AS
    WITH RECURSIVE t(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM t WHERE n < 100) SELECT sum(n) AS sum FROM t;
CREATE VIEW sales.latest AS
    SELECT DISTINCT ON (customer) *, row_number() OVER (PARTITION BY customer ORDER BY total) AS place
      FROM sales."order", LATERAL (SELECT 1 AS one) l ORDER BY customer, changed DESC;
CREATE MATERIALIZED VIEW sales.summary AS SELECT customer, count(*) AS orders FROM sales."order" GROUP BY customer;
CREATE UNIQUE INDEX summary_customer ON sales.summary (customer);

CREATE SEQUENCE sales.ticket AS int INCREMENT -3 MAXVALUE -1 MINVALUE -9000 START -5 CACHE 20 CYCLE;
GRANT USAGE ON SEQUENCE sales.ticket TO "shop app";
RESET ROLE;

CREATE TABLE "Two ""Words""
and a line"."select" ("from" int PRIMARY KEY, "größe ""x""" text);
CREATE TABLE public.legacy (a int, b text);
CREATE INDEX ON public.legacy (b text_pattern_ops);
GRANT CREATE ON SCHEMA public TO "shop app";

CREATE FUNCTION public.guard() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN END $$;
CREATE EVENT TRIGGER guard ON ddl_command_end WHEN TAG IN ('DROP TABLE') EXECUTE FUNCTION public.guard();
CREATE FOREIGN DATA WRAPPER elsewhere;
CREATE SERVER far FOREIGN DATA WRAPPER elsewhere OPTIONS (host 'far');
CREATE USER MAPPING FOR "shop app" SERVER far OPTIONS (secret 'x');
CREATE FOREIGN TABLE public.remote (a int OPTIONS (name 'b')) SERVER far OPTIONS (path 'p');
CREATE TEXT SEARCH CONFIGURATION public.plain (COPY = simple);
CREATE COLLATION public.posix FROM "C";
CREATE FUNCTION public.colour_number(sales.colour) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';
CREATE CAST (sales.colour AS int) WITH FUNCTION public.colour_number(sales.colour);
CREATE FUNCTION public.near(point, point) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT true';
CREATE OPERATOR public.~~~ (LEFTARG = point, RIGHTARG = point, FUNCTION = public.near);
