//! The replication role: what its agent gives it and the plan names.

/// Settings without which a base copy may be ended, or miss rows: the first
/// `server_version_num` that knows each, its name, its value.
pub const ROLE_SETTINGS: &[(i32, &str, &str)] = &[
    (0, "statement_timeout", "0"),
    (0, "lock_timeout", "0"),
    (0, "idle_in_transaction_session_timeout", "0"),
    (140_000, "idle_session_timeout", "0"),
    (170_000, "transaction_timeout", "0"),
    (0, "row_security", "off"),
    (0, "default_transaction_read_only", "off"),
];
