//! The program itself against a scripted coordinator over real mutual TLS: exit
//! codes, what goes where, questions, Ctrl-C, a coordinator that goes away.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod certificate;
mod certs;
mod golden;
mod script;
mod support;
mod terminal;
mod verbs;
mod watching;
