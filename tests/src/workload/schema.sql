-- What the workload writes into. Every row it writes carries a token that no
-- other write uses and the end it was written on; rows that were there before
-- have negative tokens.

CREATE TABLE events (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    token bigint NOT NULL,
    written_on text NOT NULL,
    note text,
    happened timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX events_token ON events (token);

CREATE TABLE lists (
    id integer PRIMARY KEY,
    entries bigint[] NOT NULL DEFAULT '{}'
);
INSERT INTO lists (id) SELECT generate_series(0, 9);

CREATE TABLE accounts (
    id integer PRIMARY KEY,
    balance bigint NOT NULL
);
INSERT INTO accounts (id, balance) SELECT generate_series(0, 49), 1000;
CREATE TABLE transfers (
    token bigint PRIMARY KEY,
    written_on text NOT NULL,
    debtor integer NOT NULL REFERENCES accounts,
    creditor integer NOT NULL REFERENCES accounts,
    amount bigint NOT NULL
);

CREATE TABLE products (
    id integer PRIMARY KEY,
    sold bigint NOT NULL DEFAULT 0
);
INSERT INTO products (id) SELECT generate_series(0, 9);
CREATE SEQUENCE order_numbers START 1000 CACHE 5;
CREATE TABLE orders (
    id bigint PRIMARY KEY DEFAULT nextval('order_numbers'),
    token bigint NOT NULL UNIQUE,
    written_on text NOT NULL
);
CREATE TABLE items (
    token bigint NOT NULL,
    line integer NOT NULL,
    written_on text NOT NULL,
    product integer NOT NULL REFERENCES products,
    quantity bigint NOT NULL,
    PRIMARY KEY (token, line)
);

CREATE TABLE documents (
    token bigint PRIMARY KEY,
    written_on text NOT NULL,
    digest text NOT NULL,
    body text NOT NULL
);
ALTER TABLE documents ALTER COLUMN body SET STORAGE EXTERNAL;
-- One row for each writer, whose long body stays while its title changes: the
-- stream then carries an unchanged out-of-line value.
CREATE TABLE titles (
    writer integer PRIMARY KEY,
    title bigint NOT NULL,
    digest text NOT NULL,
    body text NOT NULL
);
ALTER TABLE titles ALTER COLUMN body SET STORAGE EXTERNAL;

CREATE TABLE registers (
    writer integer PRIMARY KEY,
    value bigint NOT NULL
);
-- Rows that come and go under the same key.
CREATE TABLE slots (
    writer integer PRIMARY KEY,
    value bigint NOT NULL
);

CREATE TABLE bulk (
    token bigint NOT NULL,
    line integer NOT NULL,
    written_on text NOT NULL,
    filler text NOT NULL,
    PRIMARY KEY (token, line)
);

-- Written below savepoints, some of which are rolled back.
CREATE TABLE nested (
    token bigint NOT NULL,
    line integer NOT NULL,
    written_on text NOT NULL,
    kept boolean NOT NULL,
    PRIMARY KEY (token, line)
);

-- Numbers that no table has: only the sequences know how far they are. Sessions
-- keep some in reserve.
CREATE SEQUENCE tickets START 5000 CACHE 20;
CREATE SEQUENCE countdown INCREMENT BY -3 MAXVALUE 1000000000 START 1000000000;

CREATE TABLE readings (
    token bigint NOT NULL,
    sensor integer NOT NULL,
    written_on text NOT NULL,
    value double precision,
    PRIMARY KEY (sensor, token)
) PARTITION BY RANGE (sensor);
CREATE TABLE readings_low PARTITION OF readings FOR VALUES FROM (0) TO (50);
CREATE TABLE readings_high PARTITION OF readings FOR VALUES FROM (50) TO (100);

-- Values that are easily mangled. Nothing writes here.
CREATE TYPE mood AS ENUM ('fine', 'it''s complicated', '');
CREATE DOMAIN short_text AS text CHECK (length(VALUE) < 50);
CREATE TYPE pair AS (left_part integer, right_part text);
CREATE TABLE oddities (
    id integer PRIMARY KEY,
    bits bit varying,
    bytes bytea,
    floats double precision[],
    exact numeric,
    moments timestamptz[],
    span interval,
    document jsonb,
    raw json,
    mood mood,
    short short_text,
    pair pair,
    range int4range,
    network inet,
    texts text[],
    twice integer GENERATED ALWAYS AS (id * 2) STORED
);
INSERT INTO oddities VALUES
    (1, B'10101', '\x00ff00', '{NaN,Infinity,-Infinity,-0,1e-300}', 'NaN', '{infinity,-infinity,294276-12-31 23:59:59+00}',
     '-178000000 years', '{"a": [1, null, "\u00e9"]}', '{"a" :1,  "a":2}', 'it''s complicated', 'é', '(1,"a,b\"c")', '[1,10)',
     '::1/128', '{"",NULL,"NULL","a\\b"}'),
    (2, B'', '', '{}', '0.1000000000000000000000000000000000000001', '{4713-01-01 00:00:00+00 BC}', '0', '{}', '[]', '', '',
     '(,)', 'empty', '10.0.0.0/8', '{}'),
    (3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
