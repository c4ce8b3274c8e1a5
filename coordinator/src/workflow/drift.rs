//! Schema drift: what the agent of the side that follows says about the two schemas,
//! and what that holds.
//!
//! Agents compare, because definitions stay with them; what holds a migration is
//! decided here. What they say is lossy: it keeps a switch from beginning, with the
//! objects named, and lets nothing through. Whether the schemas are equal the
//! switch's own preconditions prove.

use pgportage_link::{Failure, Remedy};
use pgportage_proto::Reason;
use pgportage_report::drift::{Change, DriftedObject, SchemaDrift};

use super::judge::named;
use super::state::{Phase, State};
use super::{Side, StepName};
use crate::message::refusal;

/// Why a migration with this drift is held, in the words that every place uses.
pub(crate) fn failure(drift: &SchemaDrift) -> Failure {
    let count = drift.object_count;
    let objects =
        if count == 1 { "1 schema object differs".to_owned() } else { format!("{count} schema objects differ") };
    let clauses = drift.objects.iter().map(|object| clause(object, drift.follower));
    let named = named(clauses, usize::try_from(count).unwrap_or(0));
    let mut hint =
        "Make the same change on both sides, or take it back where it was made; the hold ends by itself.".to_owned();
    if drift.objects.iter().any(|object| object.change == Change::NotReplicated) {
        hint.push_str(" A table that was created since the migration began is not replicated: drop it.");
    }
    refusal(Reason::SchemaDiffers, format!("{objects} between the two sides"))
        .detail(format!("{named}."))
        .hint(hint)
        .remedy(Remedy::Operator)
}

fn clause(object: &DriftedObject, follower: Side) -> String {
    let (identity, follower, other) = (&object.identity, follower.as_str(), follower.other().as_str());
    match object.change {
        Change::Missing => format!("{identity} is missing on the {follower}"),
        Change::Extra => format!("{identity} is on the {follower} only"),
        Change::Different | Change::Unrecognised => format!("{identity} is defined otherwise on the {follower}"),
        Change::NotReplicated => format!("{identity} was created on the {other} and is not replicated"),
    }
}

/// Whether rows flow from one side to the other as they should, so that a drift
/// between the two means something.
pub(crate) fn concerns(state: &State) -> bool {
    match &state.phase {
        Phase::Running { step } | Phase::Stopped { step, .. } => match step {
            StepName::CatchUp
            | StepName::Reverse
            | StepName::Verify
            | StepName::VerifyBack
            | StepName::CutoverRehearsal
            | StepName::RollbackRehearsal => true,
            StepName::Inspect
            | StepName::Connect
            | StepName::Identity
            | StepName::Publication
            | StepName::Close
            | StepName::Schema
            | StepName::Copy
            | StepName::Subscribe
            | StepName::Cutover
            | StepName::Rollback
            | StepName::Finish => false,
        },
        Phase::Held { step: StepName::Cutover } => true,
        // Without a way back nothing follows.
        Phase::Held { step: StepName::Finish } => state.way_back,
        Phase::TakingBack { step, .. } => step.is_rehearsal(),
        Phase::Held { .. } | Phase::Pending | Phase::Aborting { .. } | Phase::Aborted | Phase::Succeeded => false,
    }
}

/// What keeps a switch from beginning: a drift that was told.
pub(crate) fn may_switch(drift: Option<&SchemaDrift>) -> Result<(), Failure> {
    match drift {
        Some(drift) if !drift.level() => Err(failure(drift)),
        Some(_) | None => Ok(()),
    }
}

/// Whether a migration waits for the schemas of both sides to be level, and for nothing
/// else: a verification has found them different.
pub(crate) fn holds_verification(state: &State) -> bool {
    matches!(&state.phase, Phase::Stopped { step: StepName::Verify, failure } if failure.reason == Reason::SchemaDiffers)
}

/// Notices that the drift which a verification has found is gone, so that it goes on
/// without the operator's word.
///
/// What agents say may be some seconds older than what the verification saw: that both
/// sides are level counts once a drift was told while the verification was stopped. Of
/// one that stopped before this process began, the first word counts.
#[derive(Debug)]
pub(crate) struct Relief {
    drifted: bool,
}

impl Relief {
    /// Begins with a migration as its facts say it stands.
    pub(crate) fn new(state: &State) -> Self {
        Self { drifted: holds_verification(state) }
    }

    /// Takes in how the migration stands and what is told of the schemas. Returns
    /// whether to verify again.
    pub(crate) fn has_come(&mut self, state: &State, told: Option<&SchemaDrift>) -> bool {
        if !holds_verification(state) {
            self.drifted = false;
            return false;
        }
        match told {
            Some(drift) if drift.level() => std::mem::take(&mut self.drifted),
            Some(_) => {
                self.drifted = true;
                false
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::act::count_rows::SchemaObject;
    use super::super::act::{CountRows, Digest, Outcome, RowCounts};
    use super::super::proof::{Play, outcome};
    use super::super::{ActKind, ActRef};
    use super::*;

    fn drift(count: i32) -> SchemaDrift {
        let object = |identity: &str, change| DriftedObject { identity: identity.to_owned(), change };
        SchemaDrift {
            follower: Side::Destination,
            object_count: count,
            objects: vec![
                object("table public.orders", Change::Different),
                object("table public.late", Change::NotReplicated),
                object("index public.i", Change::Missing),
                object("view public.v", Change::Extra),
                object("type public.t", Change::Unrecognised),
                object("function public.f()", Change::Missing),
            ],
        }
    }

    #[test]
    fn a_drift_is_told_in_the_same_words_everywhere_and_holds() {
        let failure = may_switch(Some(&drift(8))).unwrap_err();
        assert_eq!(failure.reason, Reason::SchemaDiffers);
        assert_eq!(failure.message, "8 schema objects differ between the two sides");
        assert_eq!(
            failure.detail,
            "table public.orders is defined otherwise on the destination; \
             table public.late was created on the source and is not replicated; index public.i is missing on the \
             destination; view public.v is on the destination only; type public.t is defined otherwise on the \
             destination; and 3 more."
        );
        assert!(failure.hint.starts_with("Make the same change on both sides"), "{}", failure.hint);
        assert!(failure.hint.ends_with("is not replicated: drop it."), "{}", failure.hint);
        // After the cutover the source follows.
        let back = SchemaDrift { follower: Side::Source, ..drift(1) };
        let failure = may_switch(Some(&back)).unwrap_err();
        assert_eq!(failure.message, "1 schema object differs between the two sides");
        assert!(failure.detail.contains("table public.late was created on the destination"), "{}", failure.detail);
    }

    /// A verification that found an object on one side only.
    fn stopped() -> State {
        let mut play = Play::started();
        let counting = ActRef::find(StepName::Verify, Side::Destination, ActKind::CountRows).unwrap();
        play.answer_until(counting);
        let object = SchemaObject { identity: "table public.t".to_owned(), digest: Digest(vec![1]) };
        play.answer(|_, _| {
            Outcome::of::<CountRows>(RowCounts { objects: vec![object.clone()], ..RowCounts::default() })
        });
        while play.open().next().is_some() {
            play.answer(outcome);
        }
        play.state
    }

    #[test]
    fn a_verification_goes_on_when_the_drift_that_stopped_it_is_gone() {
        let (level, drifted) = (SchemaDrift { objects: Vec::new(), ..drift(0) }, drift(1));
        let running = Play::started().state;
        let stopped = stopped();
        assert!(holds_verification(&stopped), "{:?}", stopped.phase);

        let mut relief = Relief::new(&running);
        assert!(!relief.has_come(&running, Some(&drifted)));
        // Told before the agents have seen what the verification saw.
        assert!(!relief.has_come(&stopped, Some(&level)));
        assert!(!relief.has_come(&stopped, None));
        assert!(!relief.has_come(&stopped, Some(&drifted)));
        assert!(relief.has_come(&stopped, Some(&level)));
        assert!(!relief.has_come(&stopped, Some(&level)), "once is enough");

        // A coordinator that was restarted meanwhile.
        let mut relief = Relief::new(&stopped);
        assert!(!relief.has_come(&stopped, None));
        assert!(relief.has_come(&stopped, Some(&level)));
    }

    #[test]
    fn level_schemas_and_unknown_ones_hold_nothing() {
        assert!(may_switch(None).is_ok());
        assert!(may_switch(Some(&SchemaDrift { objects: Vec::new(), ..drift(0) })).is_ok());
    }
}
