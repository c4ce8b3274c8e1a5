//! The catalog queries behind [`super::definitions`].
//!
//! Each gives the schema, the name and what follows it, as the queries behind
//! [`super::schema_objects`] do, and a JSON object: how the object is made and
//! taken away. They need version 14.

use super::queries::{no_member, user_schema};

/// One kind of object.
pub(super) struct DefinitionQuery {
    /// The word before the name in the identity.
    pub(super) kind: &'static str,
    /// The query.
    pub(super) text: &'static str,
}

/// Keys and what they are, as one JSON text; what is NULL is left out.
macro_rules! said {
    ($($key:literal: $value:expr),+ $(,)?) => {
        concat!("jsonb_strip_nulls(jsonb_build_object(", said!(@list $($key: $value),+), "))::text")
    };
    (@list $key:literal: $value:expr) => { concat!("'", $key, "', ", $value) };
    (@list $key:literal: $value:expr, $($keys:literal: $values:expr),+) => {
        concat!("'", $key, "', ", $value, ", ", said!(@list $($keys: $values),+))
    };
}

/// An access list without its owner and without our roles.
macro_rules! grants {
    ($acl:literal, $kind:literal, $owner:literal) => {
        concat!(
            "(SELECT jsonb_agg(jsonb_build_object('grantee', CASE a.grantee WHEN 0 THEN 'PUBLIC'
                                                             ELSE quote_ident(r.rolname) END,
                               'privilege', a.privilege_type, 'grantable', a.is_grantable))
                FROM aclexplode(coalesce(",
            $acl,
            ", acldefault('",
            $kind,
            "', ",
            $owner,
            "))) AS a LEFT JOIN pg_roles AS r ON r.oid = a.grantee
               WHERE a.privilege_type <> 'MAINTAIN' AND a.grantee <> ",
            $owner,
            " AND (a.grantee = 0 OR r.rolname !~ '^pgportage(back)?_')
                 AND a.grantee <> ALL (ARRAY(
                       SELECT g.grantee FROM pg_namespace AS ours, aclexplode(ours.nspacl) AS g
                        WHERE ours.nspname = 'pgportage' AND g.grantee <> ours.nspowner)))"
        )
    };
}

/// The name of a relation `c` in its schema `n`.
macro_rules! relation {
    () => {
        "format('%I.%I', n.nspname, c.relname)"
    };
}

/// The relation `c` in its schema `n` as that which something belongs to.
macro_rules! of_relation {
    () => {
        "jsonb_build_array(CASE WHEN c.relkind IN ('v', 'm') THEN 'view' ELSE 'table' END, n.nspname, c.relname, '')"
    };
}

/// A collation where it is not the type's: ` COLLATE …`.
macro_rules! collation {
    ($collation:literal, $type:literal) => {
        concat!(
            "(SELECT format('%I.%I', cn.nspname, o.collname) FROM pg_collation AS o
                JOIN pg_namespace AS cn ON cn.oid = o.collnamespace
                JOIN pg_type AS ct ON ct.oid = ",
            $type,
            " WHERE o.oid = ",
            $collation,
            " AND o.oid <> ct.typcollation)"
        )
    };
}

/// Every kind for which statements are known.
pub(super) const DEFINITIONS: &[DefinitionQuery] = &[
    DefinitionQuery {
        kind: "schema",
        text: concat!(
            "SELECT NULL::text, n.nspname::text, '', ",
            said! {
                "create": "format('CREATE SCHEMA %I', n.nspname)",
                "drop": "format('DROP SCHEMA %I', n.nspname)",
                "order": "n.oid::bigint",
                "settings": "CASE WHEN n.nspname <> 'public' THEN jsonb_build_array(
                    format('ALTER SCHEMA %I OWNER TO %I', n.nspname, pg_get_userbyid(n.nspowner))) END",
                "grant_name": "format('SCHEMA %I', n.nspname)",
                "grants": grants!("n.nspacl", "n", "n.nspowner"),
            },
            " FROM pg_namespace AS n WHERE ",
            user_schema!(),
            " AND n.nspname !~ '^pg_' AND ",
            no_member!("pg_namespace", "n.oid"),
        ),
    },
    DefinitionQuery {
        kind: "extension",
        text: concat!(
            "SELECT NULL::text, e.extname::text, '', ",
            said! {
                "create": "format('CREATE EXTENSION %I SCHEMA %I', e.extname, n.nspname)",
                "drop": "format('DROP EXTENSION %I', e.extname)",
                "order": "e.oid::bigint",
            },
            " FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace WHERE e.extname <> 'plpgsql'",
        ),
    },
    DefinitionQuery {
        // A table whose rows travel cannot be made here alone: it is not published.
        kind: "table",
        text: concat!(
            "SELECT n.nspname::text, c.relname::text, '', ",
            said! {
                "create": concat!("CASE
                    WHEN c.relkind = 'c' THEN format('CREATE TYPE %s AS (%s)', ", relation!(), ",
                        (SELECT string_agg(format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod))
                                        || coalesce(' COLLATE ' || ", collation!("a.attcollation", "a.atttypid"), ", ''),
                                    ', ' ORDER BY a.attnum)
                           FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped))
                    WHEN c.relkind = 'p' AND NOT c.relispartition THEN format('CREATE TABLE %s (%s) PARTITION BY %s', ", relation!(), ",
                        (SELECT string_agg(format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod))
                                        || coalesce(' COLLATE ' || ", collation!("a.attcollation", "a.atttypid"), ", ''),
                                    ', ' ORDER BY a.attnum)
                           FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
                        pg_get_partkeydef(c.oid))
                    WHEN c.relkind = 'r' AND c.relpersistence = 'u'
                         AND NOT EXISTS (SELECT FROM pg_inherits AS i WHERE i.inhrelid = c.oid)
                    THEN format('CREATE UNLOGGED TABLE %s ()', ", relation!(), ") END"),
                "drop": concat!("format('DROP %s %s', CASE c.relkind WHEN 'c' THEN 'TYPE' WHEN 'f' THEN 'FOREIGN TABLE'
                    ELSE 'TABLE' END, ", relation!(), ")"),
                "order": "c.oid::bigint",
                "table_name": concat!("CASE WHEN c.relkind <> 'c' THEN ", relation!(), " END"),
                "belongs_to": "(SELECT jsonb_build_array('table', pn.nspname, p.relname, '')
                    FROM pg_inherits AS i JOIN pg_class AS p ON p.oid = i.inhparent
                    JOIN pg_namespace AS pn ON pn.oid = p.relnamespace
                   WHERE i.inhrelid = c.oid AND c.relispartition)",
                "columns": concat!("CASE WHEN c.relkind <> 'c' THEN (SELECT jsonb_agg(jsonb_strip_nulls(jsonb_build_object(
                        'name', quote_ident(a.attname), 'type', format_type(a.atttypid, a.atttypmod),
                        'collation', ", collation!("a.attcollation", "a.atttypid"), ",
                        'not_null', a.attnotnull, 'identity', a.attidentity, 'generated', a.attgenerated,
                        'default', (SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef AS d
                                     WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum),
                        'inherited', a.attinhcount > 0 AND NOT a.attislocal)) ORDER BY a.attnum)
                    FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) END"),
                "settings": concat!("CASE WHEN c.relkind = 'c'
                    THEN jsonb_build_array(format('ALTER TYPE %s OWNER TO %I', ", relation!(), ", pg_get_userbyid(c.relowner)))
                    ELSE jsonb_build_array(
                        format('ALTER TABLE %s OWNER TO %I', ", relation!(), ", pg_get_userbyid(c.relowner)),
                        format('ALTER TABLE %s %s ROW LEVEL SECURITY', ", relation!(), ",
                               CASE WHEN c.relrowsecurity THEN 'ENABLE' ELSE 'DISABLE' END),
                        format('ALTER TABLE %s %s ROW LEVEL SECURITY', ", relation!(), ",
                               CASE WHEN c.relforcerowsecurity THEN 'FORCE' ELSE 'NO FORCE' END),
                        CASE WHEN c.relreplident <> 'i' AND c.relkind <> 'f' THEN
                             format('ALTER TABLE %s REPLICA IDENTITY %s', ", relation!(), ",
                               CASE c.relreplident WHEN 'f' THEN 'FULL' WHEN 'n' THEN 'NOTHING' ELSE 'DEFAULT' END) END)
                        || coalesce((SELECT jsonb_agg(format('ALTER TABLE %s SET (%s = %L)', ", relation!(), ",
                                            split_part(o, '=', 1), substr(o, strpos(o, '=') + 1)) ORDER BY o)
                                       FROM unnest(c.reloptions) AS o), '[]') END"),
                "grant_name": concat!("format('%s %s', CASE c.relkind WHEN 'c' THEN 'TYPE' ELSE 'TABLE' END, ", relation!(), ")"),
                "grants": concat!("CASE WHEN c.relkind <> 'c' THEN ", grants!("c.relacl", "r", "c.relowner"), " END"),
            },
            " FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
             WHERE c.relkind IN ('r', 'p', 'f', 'c') AND ",
            super::user_relation!(),
            " AND (c.relkind <> 'c' OR ",
            no_member!("pg_type", "c.reltype"),
            ")",
        ),
    },
    DefinitionQuery {
        kind: "view",
        text: concat!(
            "SELECT n.nspname::text, c.relname::text, '', ",
            said! {
                "create": concat!("format('CREATE %s %s%s AS %s', CASE c.relkind WHEN 'v' THEN 'OR REPLACE VIEW'
                    ELSE 'MATERIALIZED VIEW' END, ", relation!(), ",
                    (SELECT ' WITH (' || string_agg(format('%s = %L', split_part(o, '=', 1), substr(o, strpos(o, '=') + 1)),
                                                    ', ') || ')' FROM unnest(c.reloptions) AS o), pg_get_viewdef(c.oid))"),
                "drop": concat!("format('DROP %s %s', CASE c.relkind WHEN 'v' THEN 'VIEW' ELSE 'MATERIALIZED VIEW' END, ", relation!(), ")"),
                "order": "c.oid::bigint",
                "replaceable_as": "CASE c.relkind WHEN 'v' THEN 'view' END",
                "columns": "(SELECT jsonb_agg(jsonb_build_object('name', quote_ident(a.attname),
                        'type', format_type(a.atttypid, a.atttypmod)) ORDER BY a.attnum)
                    FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)",
                "settings": concat!("jsonb_build_array(format('ALTER %s %s OWNER TO %I', CASE c.relkind WHEN 'v' THEN 'VIEW'
                    ELSE 'MATERIALIZED VIEW' END, ", relation!(), ", pg_get_userbyid(c.relowner)))"),
                "grant_name": concat!("format('TABLE %s', ", relation!(), ")"),
                "grants": grants!("c.relacl", "r", "c.relowner"),
            },
            " FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
             WHERE c.relkind IN ('v', 'm') AND ",
            super::user_relation!(),
        ),
    },
    DefinitionQuery {
        // The sequence of an identity column comes with it.
        kind: "sequence",
        text: concat!(
            "SELECT n.nspname::text, c.relname::text, '', ",
            said! {
                "create": concat!("CASE WHEN d.deptype IS DISTINCT FROM 'i' THEN format('CREATE SEQUENCE %s', ", relation!(), ") END"),
                "drop": concat!("CASE WHEN d.deptype IS DISTINCT FROM 'i' THEN format('DROP SEQUENCE IF EXISTS %s', ", relation!(), ") END"),
                "order": "c.oid::bigint",
                "belongs_to": "CASE WHEN t.oid IS NOT NULL THEN jsonb_build_array('table', tn.nspname, t.relname, '') END",
                "settings": concat!("jsonb_build_array(
                    format('ALTER SEQUENCE %s AS %s INCREMENT BY %s MINVALUE %s MAXVALUE %s START WITH %s CACHE %s %s', ", relation!(), ",
                           format_type(s.seqtypid, NULL), s.seqincrement, s.seqmin, s.seqmax, s.seqstart, s.seqcache,
                           CASE WHEN s.seqcycle THEN 'CYCLE' ELSE 'NO CYCLE' END),
                    CASE WHEN d.deptype IS DISTINCT FROM 'i' THEN format('ALTER SEQUENCE %s OWNER TO %I', ", relation!(), ", pg_get_userbyid(c.relowner)) END,
                    CASE WHEN d.deptype = 'a' THEN format('ALTER SEQUENCE %s OWNED BY %I.%I.%I', ", relation!(), ",
                                                          tn.nspname, t.relname, a.attname) END)"),
                "grant_name": concat!("format('SEQUENCE %s', ", relation!(), ")"),
                "grants": grants!("c.relacl", "s", "c.relowner"),
            },
            " FROM pg_sequence AS s JOIN pg_class AS c ON c.oid = s.seqrelid
              JOIN pg_namespace AS n ON n.oid = c.relnamespace
              LEFT JOIN pg_depend AS d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.objsubid = 0
                    AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')
              LEFT JOIN pg_class AS t ON t.oid = d.refobjid
              LEFT JOIN pg_namespace AS tn ON tn.oid = t.relnamespace
              LEFT JOIN pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
             WHERE ",
            super::user_relation!(),
        ),
    },
    DefinitionQuery {
        // One that a constraint or an index of a partitioned table brings along
        // comes with that.
        kind: "index",
        text: concat!(
            "SELECT n.nspname::text, x.relname::text, '', ",
            said! {
                "create": "CASE WHEN h.oid IS NULL AND k.oid IS NULL
                    THEN CASE x.relkind WHEN 'I' THEN regexp_replace(pg_get_indexdef(x.oid), ' ON ONLY ', ' ON ')
                         ELSE pg_get_indexdef(x.oid) END END",
                "drop": "CASE WHEN h.oid IS NULL AND k.oid IS NULL THEN format('DROP INDEX %I.%I', n.nspname, x.relname) END",
                "order": "x.oid::bigint",
                "belongs_to": concat!("CASE WHEN h.oid IS NOT NULL THEN jsonb_build_array('index', hn.nspname, h.relname, '')
                    WHEN k.oid IS NOT NULL
                    THEN jsonb_build_array('constraint', kn.nspname, k.conname, ' on ' || k.conrelid::regclass::text)
                    ELSE ", of_relation!(), " END"),
                "settings": concat!("jsonb_build_array(
                    CASE WHEN i.indisclustered THEN format('ALTER TABLE %s CLUSTER ON %I', ", relation!(), ", x.relname) END,
                    CASE WHEN i.indisreplident THEN format('ALTER TABLE %s REPLICA IDENTITY USING INDEX %I', ", relation!(), ", x.relname) END)"),
            },
            " FROM pg_index AS i JOIN pg_class AS x ON x.oid = i.indexrelid
              JOIN pg_class AS c ON c.oid = i.indrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
              LEFT JOIN pg_inherits AS up ON up.inhrelid = x.oid
              LEFT JOIN pg_class AS h ON h.oid = up.inhparent LEFT JOIN pg_namespace AS hn ON hn.oid = h.relnamespace
              LEFT JOIN pg_constraint AS k ON k.conindid = x.oid AND k.conrelid = i.indrelid AND k.contype IN ('p', 'u', 'x')
              LEFT JOIN pg_namespace AS kn ON kn.oid = k.connamespace
             WHERE (i.indisvalid OR x.relkind = 'I') AND ",
            super::user_relation!(),
        ),
    },
    DefinitionQuery {
        // Foreign keys last: they need the keys they refer to.
        kind: "constraint",
        text: concat!(
            "SELECT n.nspname::text, k.conname::text,
                    ' on ' || CASE WHEN k.contypid <> 0 THEN format_type(k.contypid, NULL)
                                   ELSE k.conrelid::regclass::text END, ",
            said! {
                "create": "CASE
                    WHEN k.contype = 't' OR (k.coninhcount > 0 AND NOT k.conislocal) THEN NULL
                    WHEN k.contypid <> 0 THEN format('ALTER DOMAIN %s ADD CONSTRAINT %I %s', format_type(k.contypid, NULL),
                                                     k.conname, pg_get_constraintdef(k.oid))
                    ELSE format('ALTER TABLE %s ADD CONSTRAINT %I %s', k.conrelid::regclass, k.conname,
                                pg_get_constraintdef(k.oid)) END",
                "drop": "CASE
                    WHEN k.contype = 't' OR (k.coninhcount > 0 AND NOT k.conislocal) THEN NULL
                    WHEN k.contypid <> 0 THEN format('ALTER DOMAIN %s DROP CONSTRAINT %I', format_type(k.contypid, NULL), k.conname)
                    ELSE format('ALTER TABLE %s DROP CONSTRAINT %I', k.conrelid::regclass, k.conname) END",
                "order": "((k.contype = 'f')::int::bigint << 32) | k.oid::bigint",
                "belongs_to": concat!("CASE
                    WHEN k.contype = 't' THEN jsonb_build_array('trigger', NULL, k.conname, ' on ' || k.conrelid::regclass::text)
                    WHEN k.coninhcount > 0 AND NOT k.conislocal THEN
                        (SELECT jsonb_build_array('constraint', pn.nspname, p.conname, ' on ' || p.conrelid::regclass::text)
                           FROM pg_inherits AS i JOIN pg_constraint AS p ON p.conrelid = i.inhparent AND p.conname = k.conname
                           JOIN pg_namespace AS pn ON pn.oid = p.connamespace
                          WHERE i.inhrelid = k.conrelid ORDER BY i.inhseqno LIMIT 1)
                    WHEN k.contypid <> 0 THEN
                        (SELECT jsonb_build_array('type', dn.nspname, d.typname, '') FROM pg_type AS d
                           JOIN pg_namespace AS dn ON dn.oid = d.typnamespace WHERE d.oid = k.contypid)
                    ELSE (SELECT ", of_relation!(), " FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                           WHERE c.oid = k.conrelid) END"),
            },
            " FROM pg_constraint AS k JOIN pg_namespace AS n ON n.oid = k.connamespace
             WHERE k.contype <> 'n' AND k.conparentid = 0 AND ",
            user_schema!(),
            " AND ",
            no_member!("pg_constraint", "k.oid"),
        ),
    },
    DefinitionQuery {
        kind: "statistics",
        text: concat!(
            "SELECT sn.nspname::text, s.stxname::text, '', ",
            said! {
                "create": "pg_get_statisticsobjdef(s.oid)",
                "drop": "format('DROP STATISTICS %I.%I', sn.nspname, s.stxname)",
                "order": "s.oid::bigint",
                "belongs_to": of_relation!(),
                "settings": "jsonb_build_array(format('ALTER STATISTICS %I.%I OWNER TO %I', sn.nspname, s.stxname,
                                                      pg_get_userbyid(s.stxowner)))",
            },
            " FROM pg_statistic_ext AS s JOIN pg_namespace AS sn ON sn.oid = s.stxnamespace
              JOIN pg_class AS c ON c.oid = s.stxrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE ",
            user_schema!(),
        ),
    },
    DefinitionQuery {
        kind: "rule",
        text: concat!(
            "SELECT NULL::text, u.rulename::text, ' on ' || u.ev_class::regclass::text, ",
            said! {
                "create": "pg_get_ruledef(u.oid)",
                "drop": "format('DROP RULE %I ON %s', u.rulename, u.ev_class::regclass)",
                "order": "u.oid::bigint",
                "belongs_to": of_relation!(),
                "settings": concat!("CASE WHEN c.relkind NOT IN ('v', 'm') THEN jsonb_build_array(
                    format('ALTER TABLE %s %s RULE %I', ", relation!(), ", CASE u.ev_enabled WHEN 'D' THEN 'DISABLE'
                           WHEN 'R' THEN 'ENABLE REPLICA' WHEN 'A' THEN 'ENABLE ALWAYS' ELSE 'ENABLE' END, u.rulename)) END"),
            },
            " FROM pg_rewrite AS u JOIN pg_class AS c ON c.oid = u.ev_class
              JOIN pg_namespace AS n ON n.oid = c.relnamespace
             WHERE u.rulename <> '_RETURN' AND ",
            super::user_relation!(),
        ),
    },
    DefinitionQuery {
        kind: "trigger",
        text: concat!(
            "SELECT NULL::text, g.tgname::text, ' on ' || g.tgrelid::regclass::text, ",
            said! {
                "create": "pg_get_triggerdef(g.oid)",
                "drop": "format('DROP TRIGGER %I ON %s', g.tgname, g.tgrelid::regclass)",
                "order": "g.oid::bigint",
                "belongs_to": of_relation!(),
                "settings": concat!("CASE WHEN c.relkind NOT IN ('v', 'm') THEN jsonb_build_array(
                    format('ALTER TABLE %s %s TRIGGER %I', ", relation!(), ", CASE g.tgenabled WHEN 'D' THEN 'DISABLE'
                           WHEN 'R' THEN 'ENABLE REPLICA' WHEN 'A' THEN 'ENABLE ALWAYS' ELSE 'ENABLE' END, g.tgname)) END"),
            },
            " FROM pg_trigger AS g JOIN pg_class AS c ON c.oid = g.tgrelid
              JOIN pg_namespace AS n ON n.oid = c.relnamespace
             WHERE NOT g.tgisinternal AND g.tgparentid = 0 AND ",
            super::user_relation!(),
        ),
    },
    DefinitionQuery {
        kind: "policy",
        text: concat!(
            "SELECT NULL::text, p.polname::text, ' on ' || p.polrelid::regclass::text, ",
            said! {
                "create": "format('CREATE POLICY %I ON %s AS %s FOR %s TO %s%s%s', p.polname, p.polrelid::regclass,
                    CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
                    CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE'
                                  WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
                    (SELECT string_agg(CASE x WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x)) END, ', ')
                       FROM unnest(p.polroles) AS x),
                    ' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')',
                    ' WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')')",
                "drop": "format('DROP POLICY %I ON %s', p.polname, p.polrelid::regclass)",
                "order": "p.oid::bigint",
                "belongs_to": of_relation!(),
            },
            " FROM pg_policy AS p JOIN pg_class AS c ON c.oid = p.polrelid
              JOIN pg_namespace AS n ON n.oid = c.relnamespace
             WHERE ",
            super::user_relation!(),
        ),
    },
    DefinitionQuery {
        // An aggregate is printed by no function of the server.
        kind: "function",
        text: concat!(
            "SELECT n.nspname::text, p.proname::text, '(' || pg_get_function_identity_arguments(p.oid) || ')', ",
            said! {
                "create": "CASE WHEN p.prokind <> 'a' THEN pg_get_functiondef(p.oid) END",
                "drop": "format('DROP ROUTINE %s', p.oid::regprocedure)",
                "order": "p.oid::bigint",
                "replaceable_as": "concat_ws('|', p.prokind, pg_get_function_result(p.oid), p.proargnames::text, p.pronargdefaults)",
                "settings": "jsonb_build_array(format('ALTER ROUTINE %s OWNER TO %I', p.oid::regprocedure,
                                                      pg_get_userbyid(p.proowner)))",
                "grant_name": "format('ROUTINE %s', p.oid::regprocedure)",
                "grants": grants!("p.proacl", "f", "p.proowner"),
                "default_grants": grants!("NULL::aclitem[]", "f", "p.proowner"),
            },
            " FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace WHERE ",
            user_schema!(),
            " AND ",
            no_member!("pg_proc", "p.oid"),
            " AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = 'pg_proc'::regclass
                               AND d.objid = p.oid AND d.deptype = 'i')",
        ),
    },
    DefinitionQuery {
        kind: "type",
        text: concat!(
            "SELECT n.nspname::text, t.typname::text, '', ",
            said! {
                "create": concat!("CASE t.typtype
                    WHEN 'e' THEN format('CREATE TYPE %I.%I AS ENUM (%s)', n.nspname, t.typname,
                        (SELECT string_agg(quote_literal(e.enumlabel), ', ' ORDER BY e.enumsortorder)
                           FROM pg_enum AS e WHERE e.enumtypid = t.oid))
                    WHEN 'd' THEN format('CREATE DOMAIN %I.%I AS %s%s', n.nspname, t.typname,
                        format_type(t.typbasetype, t.typtypmod),
                        ' COLLATE ' || ", collation!("t.typcollation", "t.typbasetype"), ") END"),
                "drop": "format('DROP %s %I.%I', CASE t.typtype WHEN 'd' THEN 'DOMAIN' ELSE 'TYPE' END, n.nspname, t.typname)",
                "order": "t.oid::bigint",
                "belongs_to": "CASE WHEN t.typtype = 'c' THEN jsonb_build_array('table', n.nspname, t.typname, '') END",
                "labels": "(SELECT jsonb_agg(e.enumlabel ORDER BY e.enumsortorder) FROM pg_enum AS e WHERE e.enumtypid = t.oid)",
                "settings": "jsonb_build_array(
                    CASE WHEN t.typtype <> 'c' THEN format('ALTER TYPE %I.%I OWNER TO %I', n.nspname, t.typname,
                                                           pg_get_userbyid(t.typowner)) END,
                    CASE WHEN t.typtype = 'd' THEN format('ALTER DOMAIN %I.%I %s NOT NULL', n.nspname, t.typname,
                                                           CASE WHEN t.typnotnull THEN 'SET' ELSE 'DROP' END) END,
                    CASE WHEN t.typtype = 'd' THEN format('ALTER DOMAIN %I.%I %s', n.nspname, t.typname,
                        coalesce('SET DEFAULT ' || pg_get_expr(t.typdefaultbin, 0), 'DROP DEFAULT')) END)",
                "grant_name": "format('TYPE %I.%I', n.nspname, t.typname)",
                "grants": grants!("t.typacl", "T", "t.typowner"),
                "default_grants": grants!("NULL::aclitem[]", "T", "t.typowner"),
            },
            " FROM pg_type AS t JOIN pg_namespace AS n ON n.oid = t.typnamespace WHERE ",
            user_schema!(),
            " AND ",
            no_member!("pg_type", "t.oid"),
            " AND t.typtype <> 'm' AND t.typelem = 0
              AND (t.typrelid = 0 OR EXISTS (SELECT FROM pg_class AS c WHERE c.oid = t.typrelid AND c.relkind = 'c'))",
        ),
    },
];
