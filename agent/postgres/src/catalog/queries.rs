//! The catalog queries behind [`super::schema_objects`].
//!
//! Each gives five texts for every object: its schema (NULL for objects outside of schemas), its name, what
//! follows the name in the identity, the exact part of its definition, and the part that versions print
//! differently. They need version 14. They run twice while applications stand still. So work for every
//! column of every table is done only where there is something to read.

pub(super) struct ObjectQuery {
    /// The word before the name in the identity.
    pub(super) kind: &'static str,
    pub(super) text: &'static str,
}

/// The schema `n` is the user's.
macro_rules! user_schema {
    () => {
        "n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'pgportage')
         AND n.nspname !~ '^pg_(toast_)?temp_'"
    };
}

/// The object is no member of an extension.
macro_rules! no_member {
    ($catalog:literal, $oid:literal) => {
        concat!(
            "NOT EXISTS (SELECT FROM pg_depend AS member WHERE member.classid = '",
            $catalog,
            "'::regclass AND member.objid = ",
            $oid,
            " AND member.deptype = 'e')"
        )
    };
}

/// An access list by effect: sorted, without grantors, and without our roles (those with our names, and the
/// one made beforehand that may use our schema). `who` narrows the grantees.
macro_rules! acl {
    ($acl:literal, $kind:literal, $owner:literal) => {
        acl!($acl, $kind, $owner, "true")
    };
    ($acl:literal, $kind:literal, $owner:literal, $who:literal) => {
        concat!(
            "(SELECT string_agg(e.entry, ',' ORDER BY e.entry COLLATE \"C\")
                FROM (SELECT DISTINCT format('%s=%s%s',
                             CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE coalesce(r.rolname, '?') END,
                             a.privilege_type, CASE WHEN a.is_grantable THEN '*' END) AS entry
                        FROM aclexplode(coalesce(",
            $acl,
            ", acldefault('",
            $kind,
            "', ",
            $owner,
            "))) AS a LEFT JOIN pg_roles AS r ON r.oid = a.grantee
                       WHERE a.privilege_type <> 'MAINTAIN' AND coalesce(r.rolname, '') !~ '^pgportage(back)?_'
                         AND a.grantee <> ALL (ARRAY(
                               SELECT g.grantee FROM pg_namespace AS ours, aclexplode(ours.nspacl) AS g
                                WHERE ours.nspname = 'pgportage' AND g.grantee <> ours.nspowner)) AND ",
            $who,
            ") AS e)"
        )
    };
}

/// Options of a relation, index or column, sorted, without `pg_attver`.
macro_rules! options {
    ($options:literal) => {
        concat!(
            "(SELECT string_agg(o, ',' ORDER BY o COLLATE \"C\") FROM unnest(",
            $options,
            ") AS o WHERE o !~ '^pg_attver=')"
        )
    };
}

macro_rules! owner {
    ($owner:literal) => {
        concat!("pg_get_userbyid(", $owner, ")")
    };
}

/// Fields in one text, so that none can run into the next.
macro_rules! fields {
    ($($field:expr),+ $(,)?) => {
        concat!("jsonb_build_array(", fields!(@list $($field),+), ")::text")
    };
    (@list $field:expr) => { $field };
    (@list $field:expr, $($rest:expr),+) => { concat!($field, ", ", fields!(@list $($rest),+)) };
}

/// Every kind, in no particular order.
pub(super) const OBJECTS: &[ObjectQuery] = &[
    ObjectQuery {
        // The owner of the schema `public` differs between 14 and 15.
        kind: "schema",
        text: concat!(
            "SELECT NULL::text, n.nspname::text, '', ",
            fields!(
                concat!("CASE WHEN n.nspname <> 'public' THEN ", owner!("n.nspowner"), " END"),
                acl!("n.nspacl", "n", "n.nspowner", "(n.nspname <> 'public' OR a.grantee <> n.nspowner)"),
            ),
            ", '' FROM pg_namespace AS n WHERE ",
            user_schema!(),
            " AND n.nspname !~ '^pg_' AND ",
            no_member!("pg_namespace", "n.oid"),
        ),
    },
    ObjectQuery {
        kind: "extension",
        text: "SELECT NULL::text, e.extname::text, '', n.nspname::text, ''
                 FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace
                WHERE e.extname <> 'plpgsql'",
    },
    ObjectQuery {
        kind: "table",
        text: concat!(
            "SELECT n.nspname::text, c.relname::text, '', ",
            fields!(
                "CASE c.relkind WHEN 'p' THEN 'partitioned' WHEN 'f' THEN 'foreign' WHEN 'c' THEN 'type' END",
                "c.relpersistence",
                owner!("c.relowner"),
                acl!("c.relacl", "r", "c.relowner"),
                "c.relrowsecurity",
                "c.relforcerowsecurity",
                "c.relreplident",
                options!("c.reloptions"),
                "(SELECT jsonb_agg(i.inhparent::regclass::text ORDER BY i.inhseqno)
                    FROM pg_inherits AS i WHERE i.inhrelid = c.oid)",
                concat!(
                    "(SELECT jsonb_agg(jsonb_build_array(a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
                                 a.attidentity, a.attgenerated,
                                 CASE WHEN a.attcollation <> t.typcollation THEN
                                 (SELECT jsonb_build_array(cn.nspname, o.collname) FROM pg_collation AS o
                                    JOIN pg_namespace AS cn ON cn.oid = o.collnamespace
                                   WHERE o.oid = a.attcollation) END,
                                 a.attstorage, a.attcompression,
                                 nullif(a.attstattarget, -1), CASE WHEN a.attoptions IS NOT NULL THEN ",
                    options!("a.attoptions"),
                    " END, CASE WHEN a.attacl IS NOT NULL THEN ",
                    acl!("a.attacl", "c", "c.relowner"),
                    " END) ORDER BY a.attnum)
                    FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
                   WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)"
                ),
                "(SELECT jsonb_build_array(s.srvname, f.ftoptions) FROM pg_foreign_table AS f
                    JOIN pg_foreign_server AS s ON s.oid = f.ftserver WHERE f.ftrelid = c.oid)",
            ),
            ", concat_ws(' | ', pg_get_partkeydef(c.oid), pg_get_expr(c.relpartbound, c.oid),
                         (SELECT string_agg(pg_get_expr(d.adbin, d.adrelid), ' | ' ORDER BY d.adnum)
                            FROM pg_attrdef AS d WHERE d.adrelid = c.oid))
               FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
              WHERE c.relkind IN ('r', 'p', 'f', 'c') AND ",
            super::user_relation!(),
            // The row type of a composite type is a member of an extension where the type is.
            " AND (c.relkind <> 'c' OR ",
            no_member!("pg_type", "c.reltype"),
            ")",
        ),
    },
    ObjectQuery {
        kind: "view",
        text: concat!(
            "SELECT n.nspname::text, c.relname::text, '', ",
            fields!(
                "c.relkind",
                owner!("c.relowner"),
                acl!("c.relacl", "r", "c.relowner"),
                options!("c.reloptions"),
                "(SELECT jsonb_agg(jsonb_build_array(a.attname, format_type(a.atttypid, a.atttypmod)) ORDER BY a.attnum)
                    FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)",
            ),
            ", pg_get_viewdef(c.oid)
               FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
              WHERE c.relkind IN ('v', 'm') AND ",
            super::user_relation!(),
        ),
    },
    ObjectQuery {
        kind: "sequence",
        text: concat!(
            "SELECT n.nspname::text, c.relname::text, '', ",
            fields!(
                owner!("c.relowner"),
                acl!("c.relacl", "s", "c.relowner"),
                "format_type(s.seqtypid, NULL)",
                "s.seqstart",
                "s.seqincrement",
                "s.seqmin",
                "s.seqmax",
                "s.seqcache",
                "s.seqcycle",
                "(SELECT jsonb_build_array(d.refobjid::regclass::text, a.attname)
                    FROM pg_depend AS d JOIN pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
                   WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.objsubid = 0
                     AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i'))",
            ),
            ", '' FROM pg_sequence AS s JOIN pg_class AS c ON c.oid = s.seqrelid
                   JOIN pg_namespace AS n ON n.oid = c.relnamespace
              WHERE ",
            super::user_relation!(),
        ),
    },
    ObjectQuery {
        // pg_dump leaves out what CREATE INDEX CONCURRENTLY left unfinished.
        kind: "index",
        text: concat!(
            "SELECT n.nspname::text, c.relname::text, '', ",
            fields!(
                "i.indisprimary",
                "i.indisunique",
                "i.indisreplident",
                "i.indisclustered",
                options!("c.reloptions"),
                "(SELECT jsonb_agg(h.inhparent::regclass::text) FROM pg_inherits AS h WHERE h.inhrelid = c.oid)",
            ),
            ", pg_get_indexdef(c.oid)
               FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
               JOIN pg_namespace AS n ON n.oid = c.relnamespace
              WHERE (i.indisvalid OR c.relkind = 'I')
                AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = 'pg_class'::regclass
                                  AND d.objid = i.indrelid AND d.deptype = 'e') AND ",
            super::user_relation!(),
        ),
    },
    ObjectQuery {
        // Neither those of 18 that only say NOT NULL (the column says it), nor those that a partition has
        // from its parent.
        kind: "constraint",
        text: concat!(
            "SELECT n.nspname::text, k.conname::text,
                    ' on ' || CASE WHEN k.contypid <> 0 THEN format_type(k.contypid, NULL)
                                   ELSE k.conrelid::regclass::text END, ",
            fields!("k.contype", "k.convalidated", "k.condeferrable", "k.condeferred", "k.connoinherit"),
            ", pg_get_constraintdef(k.oid)
               FROM pg_constraint AS k JOIN pg_namespace AS n ON n.oid = k.connamespace
              WHERE k.contype <> 'n' AND k.conparentid = 0 AND ",
            user_schema!(),
            " AND ",
            no_member!("pg_constraint", "k.oid"),
            " AND ",
            no_member!("pg_class", "k.conrelid"),
            " AND ",
            no_member!("pg_type", "k.contypid"),
            " AND NOT EXISTS (SELECT FROM pg_class AS c WHERE c.oid = k.conrelid AND c.relpersistence = 't')",
        ),
    },
    ObjectQuery {
        // Not those that a partition has from its parent, which count as
        // internal before 15.
        kind: "trigger",
        text: concat!(
            "SELECT NULL::text, g.tgname::text, ' on ' || g.tgrelid::regclass::text, ",
            fields!("g.tgenabled"),
            ", pg_get_triggerdef(g.oid)
               FROM pg_trigger AS g JOIN pg_class AS c ON c.oid = g.tgrelid
               JOIN pg_namespace AS n ON n.oid = c.relnamespace
              WHERE NOT g.tgisinternal AND g.tgparentid = 0 AND ",
            super::user_relation!(),
        ),
    },
    ObjectQuery {
        kind: "rule",
        text: concat!(
            "SELECT NULL::text, u.rulename::text, ' on ' || u.ev_class::regclass::text, ",
            fields!("u.ev_enabled", "u.ev_type", "u.is_instead"),
            ", pg_get_ruledef(u.oid)
               FROM pg_rewrite AS u JOIN pg_class AS c ON c.oid = u.ev_class
               JOIN pg_namespace AS n ON n.oid = c.relnamespace
              WHERE u.rulename <> '_RETURN' AND ",
            super::user_relation!(),
        ),
    },
    ObjectQuery {
        kind: "policy",
        text: concat!(
            "SELECT NULL::text, p.polname::text, ' on ' || p.polrelid::regclass::text, ",
            fields!(
                "p.polcmd",
                "p.polpermissive",
                "(SELECT jsonb_agg(e.grantee ORDER BY e.grantee COLLATE \"C\")
                    FROM (SELECT CASE x WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(x) END AS grantee
                            FROM unnest(p.polroles) AS x) AS e)",
            ),
            ", concat_ws(' | ', pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid))
               FROM pg_policy AS p JOIN pg_class AS c ON c.oid = p.polrelid
               JOIN pg_namespace AS n ON n.oid = c.relnamespace
              WHERE ",
            super::user_relation!(),
        ),
    },
    ObjectQuery {
        kind: "function",
        text: concat!(
            "SELECT n.nspname::text, p.proname::text, '(' || pg_get_function_identity_arguments(p.oid) || ')', ",
            fields!(
                "p.prokind",
                owner!("p.proowner"),
                acl!("p.proacl", "f", "p.proowner"),
                "l.lanname",
                "pg_get_function_result(p.oid)",
                "p.prosrc",
                "p.probin",
                "p.provolatile",
                "p.proisstrict",
                "p.prosecdef",
                "p.proleakproof",
                "p.proparallel",
                "p.procost",
                "p.prorows",
                "p.proconfig",
                "g.aggkind",
                "g.aggtransfn::text",
                "g.aggfinalfn::text",
                "g.aggcombinefn::text",
                "g.agginitval",
                "format_type(g.aggtranstype, NULL)",
            ),
            ", concat_ws(' | ', pg_get_function_arguments(p.oid),
                         CASE WHEN p.prosqlbody IS NOT NULL THEN pg_get_functiondef(p.oid) END)
               FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
               JOIN pg_language AS l ON l.oid = p.prolang
               LEFT JOIN pg_aggregate AS g ON g.aggfnoid = p.oid
              WHERE ",
            user_schema!(),
            " AND ",
            no_member!("pg_proc", "p.oid"),
            // The constructors of a range type come and go with it.
            " AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = 'pg_proc'::regclass
                               AND d.objid = p.oid AND d.deptype = 'i')",
        ),
    },
    ObjectQuery {
        kind: "type",
        text: concat!(
            "SELECT n.nspname::text, t.typname::text, '', ",
            fields!(
                "t.typtype",
                owner!("t.typowner"),
                acl!("t.typacl", "T", "t.typowner"),
                "t.typnotnull",
                "CASE WHEN t.typtype = 'd' THEN format_type(t.typbasetype, t.typtypmod) END",
                "CASE WHEN t.typtype = 'b' THEN jsonb_build_array(t.typinput::text, t.typoutput::text, t.typlen) END",
                "(SELECT jsonb_agg(e.enumlabel ORDER BY e.enumsortorder) FROM pg_enum AS e WHERE e.enumtypid = t.oid)",
                "(SELECT jsonb_build_array(format_type(r.rngsubtype, NULL), r.rngcanonical::text, r.rngsubdiff::text)
                    FROM pg_range AS r WHERE r.rngtypid = t.oid)",
            ),
            ", pg_get_expr(t.typdefaultbin, 0)
               FROM pg_type AS t JOIN pg_namespace AS n ON n.oid = t.typnamespace
              WHERE ",
            user_schema!(),
            " AND ",
            no_member!("pg_type", "t.oid"),
            " AND t.typtype <> 'm' AND t.typelem = 0
              AND (t.typrelid = 0 OR EXISTS (SELECT FROM pg_class AS c WHERE c.oid = t.typrelid AND c.relkind = 'c'))",
        ),
    },
    ObjectQuery {
        kind: "statistics",
        text: concat!(
            "SELECT n.nspname::text, s.stxname::text, '', ",
            owner!("s.stxowner"),
            "::text, pg_get_statisticsobjdef(s.oid)
               FROM pg_statistic_ext AS s JOIN pg_namespace AS n ON n.oid = s.stxnamespace WHERE ",
            user_schema!(),
        ),
    },
    ObjectQuery {
        kind: "operator",
        text: concat!(
            "SELECT n.nspname::text, o.oprname::text,
                    format('(%s, %s)', format_type(o.oprleft, NULL), format_type(o.oprright, NULL)), ",
            fields!(owner!("o.oprowner"), "o.oprcode::text", "o.oprcanmerge", "o.oprcanhash"),
            ", '' FROM pg_operator AS o JOIN pg_namespace AS n ON n.oid = o.oprnamespace WHERE ",
            user_schema!(),
            " AND ",
            no_member!("pg_operator", "o.oid"),
        ),
    },
    ObjectQuery {
        kind: "operator class",
        text: concat!(
            "SELECT n.nspname::text, o.opcname::text, ' using ' || m.amname, ",
            fields!(owner!("o.opcowner"), "format_type(o.opcintype, NULL)", "o.opcdefault"),
            ", '' FROM pg_opclass AS o JOIN pg_namespace AS n ON n.oid = o.opcnamespace
                  JOIN pg_am AS m ON m.oid = o.opcmethod WHERE ",
            user_schema!(),
            " AND ",
            no_member!("pg_opclass", "o.oid"),
        ),
    },
    ObjectQuery {
        kind: "collation",
        text: concat!(
            "SELECT n.nspname::text, o.collname::text, '', ",
            fields!(owner!("o.collowner"), "o.collprovider", "o.collisdeterministic"),
            ", '' FROM pg_collation AS o JOIN pg_namespace AS n ON n.oid = o.collnamespace WHERE ",
            user_schema!(),
            " AND ",
            no_member!("pg_collation", "o.oid"),
        ),
    },
    ObjectQuery {
        kind: "text search configuration",
        text: concat!(
            "SELECT n.nspname::text, o.cfgname::text, '', ",
            fields!(
                owner!("o.cfgowner"),
                "o.cfgparser::text",
                "(SELECT jsonb_agg(jsonb_build_array(m.maptokentype, m.mapdict::regdictionary::text)
                                   ORDER BY m.maptokentype, m.mapseqno)
                    FROM pg_ts_config_map AS m WHERE m.mapcfg = o.oid)",
            ),
            ", '' FROM pg_ts_config AS o JOIN pg_namespace AS n ON n.oid = o.cfgnamespace WHERE ",
            user_schema!(),
            " AND ",
            no_member!("pg_ts_config", "o.oid"),
        ),
    },
    ObjectQuery {
        kind: "text search dictionary",
        text: concat!(
            "SELECT n.nspname::text, o.dictname::text, '', ",
            fields!(owner!("o.dictowner"), "o.dictinitoption"),
            ", '' FROM pg_ts_dict AS o JOIN pg_namespace AS n ON n.oid = o.dictnamespace WHERE ",
            user_schema!(),
            " AND ",
            no_member!("pg_ts_dict", "o.oid"),
        ),
    },
    ObjectQuery {
        kind: "cast",
        text: concat!(
            "SELECT NULL::text, format_type(o.castsource, NULL), ' to ' || format_type(o.casttarget, NULL), ",
            fields!("o.castfunc::regprocedure::text", "o.castcontext", "o.castmethod"),
            ", '' FROM pg_cast AS o WHERE o.oid >= 16384 AND ",
            no_member!("pg_cast", "o.oid"),
        ),
    },
    ObjectQuery {
        kind: "language",
        text: concat!(
            "SELECT NULL::text, o.lanname::text, '', ",
            fields!(owner!("o.lanowner"), "o.lanpltrusted", acl!("o.lanacl", "l", "o.lanowner")),
            ", '' FROM pg_language AS o WHERE o.oid >= 16384 AND ",
            no_member!("pg_language", "o.oid"),
        ),
    },
    ObjectQuery {
        kind: "event trigger",
        text: concat!(
            "SELECT NULL::text, o.evtname::text, '', ",
            fields!("o.evtevent", owner!("o.evtowner"), "o.evtfoid::regprocedure::text", "o.evtenabled", "o.evttags"),
            ", '' FROM pg_event_trigger AS o WHERE ",
            no_member!("pg_event_trigger", "o.oid"),
        ),
    },
    ObjectQuery {
        kind: "foreign data wrapper",
        text: concat!(
            "SELECT NULL::text, o.fdwname::text, '', ",
            fields!(owner!("o.fdwowner"), acl!("o.fdwacl", "F", "o.fdwowner"), "o.fdwoptions"),
            ", '' FROM pg_foreign_data_wrapper AS o WHERE ",
            no_member!("pg_foreign_data_wrapper", "o.oid"),
        ),
    },
    ObjectQuery {
        kind: "foreign server",
        text: concat!(
            "SELECT NULL::text, o.srvname::text, '', ",
            fields!(owner!("o.srvowner"), acl!("o.srvacl", "S", "o.srvowner"), "o.srvoptions", "o.srvversion"),
            ", '' FROM pg_foreign_server AS o WHERE ",
            no_member!("pg_foreign_server", "o.oid"),
        ),
    },
    ObjectQuery {
        // The options hold passwords, and few may read them.
        kind: "user mapping",
        text: "SELECT NULL::text, m.usename::text, ' for ' || m.srvname::text, '', '' FROM pg_user_mappings AS m",
    },
    ObjectQuery {
        kind: "default privileges",
        text: concat!(
            "SELECT NULL::text, pg_get_userbyid(d.defaclrole)::text,
                    format(' on %s in %s', d.defaclobjtype, coalesce(n.nspname, '-')), ",
            acl!("d.defaclacl", "r", "d.defaclrole"),
            ", '' FROM pg_default_acl AS d LEFT JOIN pg_namespace AS n ON n.oid = d.defaclnamespace
              WHERE d.defaclrole::regrole::text !~ '^\"?pgportage(back)?_' AND n.nspname IS DISTINCT FROM 'pgportage'",
        ),
    },
];
