//! Which statements, and in which order.

use super::*;

fn table(name: &str, columns: &[(&str, &str)]) -> ObjectDefinition {
    let column = |(name, type_name): &(&str, &str)| Column {
        name: (*name).to_owned(),
        type_name: (*type_name).to_owned(),
        ..Column::default()
    };
    ObjectDefinition {
        identity: format!("table {name}"),
        drop: format!("DROP TABLE {name}"),
        table_name: name.to_owned(),
        columns: columns.iter().map(column).collect(),
        ..ObjectDefinition::default()
    }
}

fn object(identity: &str, belongs_to: Option<&str>, order: i64) -> ObjectDefinition {
    ObjectDefinition {
        identity: identity.to_owned(),
        belongs_to: belongs_to.map(str::to_owned),
        create: format!("CREATE {identity}"),
        drop: format!("DROP {identity}"),
        order,
        ..ObjectDefinition::default()
    }
}

fn definitions(list: &[ObjectDefinition]) -> Definitions {
    list.iter().map(|definition| (definition.identity.clone(), definition.clone())).collect()
}

/// What is to be done when these are the definitions of what differs.
fn mended(theirs: &[ObjectDefinition], ours: &[ObjectDefinition]) -> Mending {
    let (theirs, ours) = (definitions(theirs), definitions(ours));
    let all = theirs.keys().chain(ours.keys());
    let change = |identity: &String| match (theirs.get(identity), ours.get(identity)) {
        (Some(one), Some(other)) if one == other => None,
        (Some(_), Some(_)) => Some(Change::Different),
        (Some(_), None) => Some(Change::Missing),
        (None, _) => Some(Change::Extra),
    };
    let differences = all.filter_map(|identity| Some((identity.clone(), change(identity)?))).collect();
    mend(&differences, &theirs, &ours, Side::Destination)
}

#[test]
fn what_needs_another_comes_behind_it_and_is_taken_away_before_it() {
    let orders = |columns| table("public.orders", columns);
    let theirs = [
        object("type public.kind", None, 1),
        object("sequence public.s", None, 2),
        object("function public.f()", None, 3),
        object("view public.a", None, 9),
        object("view public.b", None, 8),
        object("index public.i", Some("table public.orders"), 4),
        object("constraint public.c on public.orders", Some("table public.orders"), 5),
        object("trigger t on public.orders", Some("table public.orders"), 6),
        orders(&[("id", "int"), ("added", "public.kind")]),
    ];
    let made = mended(&theirs, &[orders(&[("id", "int")])]);
    assert_eq!(
        made.together,
        [
            "CREATE type public.kind",
            "CREATE sequence public.s",
            "CREATE function public.f()",
            "ALTER TABLE public.orders ADD COLUMN added public.kind",
            "CREATE view public.b",
            "CREATE view public.a",
            "CREATE index public.i",
            "CREATE constraint public.c on public.orders",
            "CREATE trigger t on public.orders",
        ]
    );
    assert_eq!(made.objects[0].identity, "table public.orders", "what stops the stream is told first");
    assert_eq!(made.objects[0].details, ["column added is missing"]);
    let taken = mended(&[orders(&[("id", "int")])], &theirs);
    assert_eq!(
        taken.together,
        [
            "DROP trigger t on public.orders",
            "DROP constraint public.c on public.orders",
            "DROP index public.i",
            "DROP view public.a",
            "DROP view public.b",
            "ALTER TABLE public.orders DROP COLUMN added",
            "DROP function public.f()",
            "DROP sequence public.s",
            "DROP type public.kind",
        ]
    );
}

#[test]
fn what_comes_with_another_has_no_statement_of_its_own() {
    let key = "constraint public.k on public.orders";
    let index =
        ObjectDefinition { create: String::new(), drop: String::new(), ..object("index public.k", Some(key), 2) };
    let constraint = object(key, Some("table public.orders"), 1);
    let made = mended(&[constraint.clone(), index.clone()], &[]);
    assert_eq!(made.together, ["CREATE constraint public.k on public.orders"]);
    assert_eq!((made.objects.len(), made.remarks.len()), (1, 0));
    // With a table everything on it is gone.
    let gone = mended(&[], &[table("public.orders", &[]), constraint, index]);
    assert_eq!(gone.together, ["DROP TABLE public.orders"]);
}

#[test]
fn a_table_that_was_created_later_is_not_made_here() {
    let identity = "table public.late";
    let key = object("constraint public.k on public.late", Some(identity), 1);
    let differences: Differences =
        [(identity.to_owned(), Change::NotReplicated), (key.identity.clone(), Change::Missing)].into();
    let theirs = definitions(&[table("public.late", &[("id", "int")]), key]);
    let mending = mend(&differences, &theirs, &Definitions::new(), Side::Destination);
    assert_eq!((mending.objects.len(), mending.together.len()), (1, 0));
    assert!(
        mending.remarks[0].contains("created on the source") && mending.remarks[0].contains("Drop it"),
        "{mending:?}"
    );
}

#[test]
fn another_name_is_told_from_another_column_where_that_can_be() {
    let orders = |columns| table("public.orders", columns);
    let renamed = mended(
        &[orders(&[("a", "int"), ("new", "int"), ("z", "int")])],
        &[orders(&[("a", "int"), ("old", "int"), ("z", "int")])],
    );
    assert_eq!(renamed.together, ["ALTER TABLE public.orders RENAME COLUMN old TO new"]);
    // At the end it may be either: nothing is taken away.
    let either = mended(&[orders(&[("a", "int"), ("new", "int")])], &[orders(&[("a", "int"), ("old", "int")])]);
    assert_eq!(either.together, [""; 0]);
    assert!(
        either.remarks[0].contains("RENAME COLUMN old TO new; or: ALTER TABLE public.orders DROP COLUMN old; ALTER"),
        "{either:?}"
    );
    // Of another type it is another column.
    let other = mended(&[orders(&[("a", "int"), ("new", "text")])], &[orders(&[("a", "int"), ("old", "int")])]);
    assert_eq!(
        other.together,
        ["ALTER TABLE public.orders ADD COLUMN new text", "ALTER TABLE public.orders DROP COLUMN old"]
    );
}

#[test]
fn rows_are_never_taken_away_while_a_table_is_missing() {
    let columns: &[(&str, &str)] = &[("id", "int")];
    let renamed = mended(&[table("public.new", columns)], &[table("public.old", columns)]);
    assert_eq!(renamed.together, ["ALTER TABLE public.old RENAME TO new"]);
    // Two that could be it, or none that is like it.
    let two = mended(&[table("public.new", columns)], &[table("public.old", columns), table("public.older", columns)]);
    let unlike = mended(&[table("public.new", columns)], &[table("public.old", &[("id", "text")])]);
    for mending in [two, unlike] {
        assert_eq!(mending.together, [""; 0], "{mending:?}");
        assert!(mending.remarks.iter().any(|remark| remark.contains("DROP TABLE public.old")), "{mending:?}");
    }
}

#[test]
fn a_column_changes_in_steps_that_the_server_takes() {
    let column = |change: &dyn Fn(&mut Column)| {
        let mut orders = table("public.orders", &[("c", "int")]);
        change(&mut orders.columns[0]);
        orders
    };
    let alter = |statement: &str| format!("ALTER TABLE public.orders ALTER COLUMN c {statement}");
    let plain = || column(&|_| {});
    let typed = |default: &str| {
        let default = default.to_owned();
        column(&move |column| {
            column.default.clone_from(&default);
        })
    };
    let wide = column(&|column| {
        "bigint".clone_into(&mut column.type_name);
        "7".clone_into(&mut column.default);
    });
    let mending = mended(&[wide], &[typed("6")]);
    assert_eq!(mending.together, [alter("DROP DEFAULT"), alter("TYPE bigint USING c::bigint"), alter("SET DEFAULT 7")]);
    assert_eq!(mending.objects[0].details, ["column c is of type int, not bigint", "column c has another default"]);
    assert!(mending.remarks[0].contains("compare them"), "{mending:?}");
    assert_eq!(mended(&[plain()], &[typed("6")]).together, [alter("DROP DEFAULT")]);
    let strict = column(&|column| column.not_null = true);
    assert_eq!(mended(std::slice::from_ref(&strict), &[plain()]).together, [alter("SET NOT NULL")]);
    assert_eq!(mended(&[plain()], std::slice::from_ref(&strict)).together, [alter("DROP NOT NULL")]);
    // From a parent it comes with the parent.
    let inherited = |not_null| {
        column(&move |column| {
            column.not_null = not_null;
            column.inherited = true;
        })
    };
    let mending = mended(&[inherited(true)], &[inherited(false)]);
    assert_eq!(mending.together, [""; 0]);
    // Rows that are there have no value yet.
    let mending = mended(&[strict], &[table("public.orders", &[])]);
    assert_eq!(mending.together, ["ALTER TABLE public.orders ADD COLUMN c int"]);
    assert_eq!(mending.after, [alter("SET NOT NULL")]);
}

#[test]
fn labels_are_added_where_they_belong_and_never_taken_away() {
    let kind = |labels: &[&str]| ObjectDefinition {
        labels: labels.iter().map(|&label| label.to_owned()).collect(),
        create: format!("CREATE TYPE public.kind {labels:?}"),
        grant_name: "TYPE public.kind".to_owned(),
        ..object("type public.kind", None, 1)
    };
    let mending = mended(&[kind(&["zero", "one", "it's", "two", "three"])], &[kind(&["one", "two"])]);
    assert_eq!(
        mending.before,
        [
            "ALTER TYPE public.kind ADD VALUE 'zero' BEFORE 'one'",
            "ALTER TYPE public.kind ADD VALUE 'it''s' AFTER 'one'",
            "ALTER TYPE public.kind ADD VALUE 'three' AFTER 'two'",
        ]
    );
    assert_eq!(mending.objects[0].details, ["it lacks 3 of its labels"]);
    let mending = mended(&[kind(&["one"])], &[kind(&["one", "two"])]);
    assert_eq!((mending.before.len(), mending.together.len()), (0, 0));
    assert!(mending.remarks[0].contains("by hand"), "{mending:?}");
}

#[test]
fn what_can_be_replaced_is_and_the_rest_is_made_anew() {
    let view = |create: &str, columns: &[&str]| ObjectDefinition {
        create: create.to_owned(),
        replaceable_as: Some("view".to_owned()),
        columns: columns.iter().map(|name| Column { name: (*name).to_owned(), ..Column::default() }).collect(),
        ..object("view public.v", None, 1)
    };
    assert_eq!(mended(&[view("new", &["a", "b"])], &[view("old", &["a"])]).together, ["new"]);
    assert_eq!(mended(&[view("new", &["a"])], &[view("old", &["a", "b"])]).together, ["DROP view public.v", "new"]);
    let index = |create: &str| ObjectDefinition { create: create.to_owned(), ..object("index public.i", None, 1) };
    assert_eq!(mended(&[index("new")], &[index("old")]).together, ["DROP index public.i", "new"]);
}

#[test]
fn owners_and_privileges_follow() {
    let grant = |grantee: &str, privilege: &str, grantable| PrivilegeGrant {
        grantee: grantee.to_owned(),
        privilege: privilege.to_owned(),
        grantable,
    };
    let with = |owner: &str, grants: &[PrivilegeGrant]| ObjectDefinition {
        settings: vec![format!("ALTER ROUTINE f() OWNER TO {owner}")],
        grant_name: "ROUTINE f()".to_owned(),
        grants: grants.to_vec(),
        default_grants: vec![grant("PUBLIC", "EXECUTE", false)],
        ..object("function f()", None, 1)
    };
    let theirs = with("app", &[grant("reader", "EXECUTE", true)]);
    let ours = with("postgres", &[grant("PUBLIC", "EXECUTE", false)]);
    let settled = [
        "ALTER ROUTINE f() OWNER TO app",
        "REVOKE EXECUTE ON ROUTINE f() FROM PUBLIC",
        "GRANT EXECUTE ON ROUTINE f() TO reader WITH GRANT OPTION",
    ];
    assert_eq!(mended(std::slice::from_ref(&theirs), &[ours]).together, settled);
    let made = mended(&[theirs], &[]).together;
    assert_eq!(made[0], "CREATE function f()");
    assert_eq!(made[1..], settled, "one that is made begins with what the server gives");
}

#[test]
fn the_longest_kind_names_an_identity_and_unknown_ones_get_a_remark() {
    let differences: Differences =
        [("text search dictionary public.d".to_owned(), Change::Missing), ("table public.t".to_owned(), Change::Extra)]
            .into();
    assert_eq!(kinds(&differences), ["table"]);
    let mending = mend(&differences, &Definitions::new(), &Definitions::new(), Side::Source);
    assert_eq!((mending.objects.len(), mending.remarks.len(), mending.together.len()), (2, 2, 0));
}
