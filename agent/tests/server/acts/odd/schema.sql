-- Tables that are allowed and that few programs expect. Each can be published:
-- it has a key, or says that all of a row identifies it.

CREATE ROLE app;

-- Rows of nothing, enough of them for several parts of a copy.
CREATE TABLE public.nothing ();
ALTER TABLE public.nothing REPLICA IDENTITY FULL;
INSERT INTO public.nothing SELECT FROM generate_series(1, 1300000);

-- Columns that can be neither read into nor left out.
CREATE TABLE public.only_generated (g int GENERATED ALWAYS AS (7) STORED);
ALTER TABLE public.only_generated REPLICA IDENTITY FULL;
INSERT INTO public.only_generated DEFAULT VALUES;
INSERT INTO public.only_generated DEFAULT VALUES;
CREATE TABLE public.computed (
    twice int GENERATED ALWAYS AS (a * 2) STORED, id int PRIMARY KEY, a int, gone int, b text
);
ALTER TABLE public.computed DROP COLUMN gone;
INSERT INTO public.computed (id, a, b) SELECT i, i * 10, 'b' FROM generate_series(1, 20) i;

CREATE TABLE public.counted (v text, id int GENERATED ALWAYS AS IDENTITY (START 100 INCREMENT 5) PRIMARY KEY);
INSERT INTO public.counted (v) SELECT 'v' || i FROM generate_series(1, 20) i;

-- Values that are in no row, only in the catalog.
CREATE TABLE public.aged (id int PRIMARY KEY);
INSERT INTO public.aged SELECT generate_series(1, 20);
ALTER TABLE public.aged ADD since text NOT NULL DEFAULT 'before', ADD bare int, ADD late int DEFAULT 7;
INSERT INTO public.aged SELECT i, 'after', NULL, NULL FROM generate_series(21, 25) i;

-- Columns in another order in each partition, numbers of dropped ones between.
CREATE TABLE public.parted (id int, day date, v text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE public.parted_2020 (v text, gone int, day date NOT NULL, id int NOT NULL) PARTITION BY HASH (id);
ALTER TABLE public.parted_2020 DROP COLUMN gone;
CREATE TABLE public.parted_2020_0 (day date NOT NULL, id int NOT NULL, gone text, v text);
ALTER TABLE public.parted_2020_0 DROP COLUMN gone;
ALTER TABLE public.parted_2020 ATTACH PARTITION public.parted_2020_0 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE public.parted_2020_1 PARTITION OF public.parted_2020 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
ALTER TABLE public.parted ATTACH PARTITION public.parted_2020 FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
CREATE TABLE public.parted_rest PARTITION OF public.parted DEFAULT;
INSERT INTO public.parted SELECT i, date '2020-12-20' + i, 'v' || i FROM generate_series(1, 40) i;

-- Rows at every level.
CREATE TABLE public.parent (id int PRIMARY KEY, v text);
CREATE TABLE public.other_parent (id int PRIMARY KEY, w text);
CREATE TABLE public.child (extra int, PRIMARY KEY (id)) INHERITS (public.parent, public.other_parent);
CREATE TABLE public.grandchild (PRIMARY KEY (id)) INHERITS (public.child);
INSERT INTO public.parent VALUES (1, 'p');
INSERT INTO public.other_parent VALUES (2, 'o');
INSERT INTO public.child (id, v, w, extra) VALUES (3, 'p', 'o', 1);
INSERT INTO public.grandchild (id, v, w, extra) VALUES (4, 'p', 'o', 2);

CREATE TABLE public.guarded (id int PRIMARY KEY, who text);
ALTER TABLE public.guarded ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.guarded FORCE ROW LEVEL SECURITY;
CREATE POLICY few ON public.guarded USING (who = 'seen');
INSERT INTO public.guarded VALUES (1, 'hidden'), (2, 'seen');

-- Whatever would change rows or swallow them on their way in.
CREATE FUNCTION public.shout() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.v := 'loud'; RETURN NEW; END $$;
CREATE FUNCTION public.swallow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TABLE public.always_loud (id int PRIMARY KEY, v text);
INSERT INTO public.always_loud VALUES (1, 'quiet');
CREATE TRIGGER shout BEFORE INSERT ON public.always_loud FOR EACH ROW EXECUTE FUNCTION public.shout();
ALTER TABLE public.always_loud ENABLE ALWAYS TRIGGER shout;
CREATE TABLE public.loud_replica (id int PRIMARY KEY, v text);
INSERT INTO public.loud_replica VALUES (1, 'quiet');
CREATE TRIGGER shout BEFORE INSERT ON public.loud_replica FOR EACH ROW EXECUTE FUNCTION public.swallow();
ALTER TABLE public.loud_replica ENABLE REPLICA TRIGGER shout;
CREATE TABLE public.ruled (id int PRIMARY KEY);
INSERT INTO public.ruled VALUES (1);
CREATE RULE nothing AS ON INSERT TO public.ruled DO INSTEAD NOTHING;

-- Rows that break what was declared later.
CREATE TABLE public.lax (id int PRIMARY KEY, v int);
INSERT INTO public.lax VALUES (1, -1);
ALTER TABLE public.lax ADD CONSTRAINT positive CHECK (v > 0) NOT VALID;
CREATE DOMAIN public.amount AS int;
CREATE TABLE public.priced (id int PRIMARY KEY, amount public.amount);
INSERT INTO public.priced VALUES (1, -1);
ALTER DOMAIN public.amount ADD CONSTRAINT positive CHECK (VALUE > 0) NOT VALID;
CREATE TABLE public.orphan (id int PRIMARY KEY, parent int);
INSERT INTO public.orphan VALUES (1, 99);
ALTER TABLE public.orphan ADD FOREIGN KEY (parent) REFERENCES public.parent NOT VALID;

-- References in circles.
CREATE TABLE public.hen (id int PRIMARY KEY, egg int);
CREATE TABLE public.egg (id int PRIMARY KEY, hen int NOT NULL REFERENCES public.hen);
ALTER TABLE public.hen ADD FOREIGN KEY (egg) REFERENCES public.egg DEFERRABLE INITIALLY DEFERRED;
INSERT INTO public.hen SELECT i, i FROM generate_series(1, 10) i;
INSERT INTO public.egg SELECT i, 11 - i FROM generate_series(1, 10) i;

CREATE TYPE public.person AS (id int, name text);
CREATE TABLE public.people OF public.person (PRIMARY KEY (id));
INSERT INTO public.people VALUES (1, 'p');
CREATE TABLE public.booked (id int PRIMARY KEY, during int4range, EXCLUDE USING gist (during WITH &&));
INSERT INTO public.booked VALUES (1, '[1,5)'), (2, '[5,9)');
CREATE TABLE public."odd ""table"" ÿ $1 %I \ '" (
    "select" int PRIMARY KEY, "a ""b" text, "%s $1 \" text, "ctid "" " int, "tab	newline
" text
);
INSERT INTO public."odd ""table"" ÿ $1 %I \ '" VALUES (1, 'a', 'b', 2, 'c');
