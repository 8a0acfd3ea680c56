//! State of a rule: pure, time is an argument.

use std::time::Duration;

/// Times that decide when a rule fires and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timing {
    /// The condition must hold this long without a break.
    pub(super) hold: Duration,
    /// After an alarm was reported as ended, no new one begins for this long.
    pub(super) cooldown: Duration,
    /// While the rule fires, the alarm is reported again after this time; zero: never.
    pub(super) repeat: Duration,
}

/// A change, or a repetition, to be reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Fired,
    /// It still fires.
    Repeated,
    Resolved,
}

/// Times are relative to any fixed moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum State {
    #[default]
    Quiet,
    /// The condition holds since then, but not long enough, or the cool-down is not over.
    Pending {
        since: Duration,
    },
    Firing {
        since: Duration,
    },
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RuleState {
    pub(super) state: State,
    resolved: Option<Duration>,
    /// Time of the last report of the alarm.
    reported_at: Duration,
}

impl RuleState {
    pub(super) fn is_firing(&self) -> bool {
        matches!(self.state, State::Firing { .. })
    }

    /// Evaluates whether the condition holds now. `None` changes nothing: if a server does not reply, the alarms on its
    /// figures neither begin nor end.
    pub(super) fn step(
        &mut self,
        now: Duration,
        holds: Option<bool>,
        timing: &Timing,
    ) -> Option<Change> {
        match (self.state, holds?) {
            (State::Quiet, false) => None,
            (State::Firing { .. }, true) => {
                let due = now.saturating_sub(self.reported_at) >= timing.repeat;
                (due && !timing.repeat.is_zero()).then(|| {
                    self.reported_at = now;
                    Change::Repeated
                })
            }
            (State::Pending { .. }, false) => {
                self.state = State::Quiet;
                None
            }
            (State::Firing { .. }, false) => {
                self.state = State::Quiet;
                self.resolved = Some(now);
                Some(Change::Resolved)
            }
            (State::Quiet, true) => {
                self.state = State::Pending { since: now };
                self.fire(now, timing)
            }
            (State::Pending { .. }, true) => self.fire(now, timing),
        }
    }

    fn fire(&mut self, now: Duration, timing: &Timing) -> Option<Change> {
        let State::Pending { since } = self.state else {
            return None;
        };
        let held = now.saturating_sub(since) >= timing.hold;
        let cool = self
            .resolved
            .is_none_or(|resolved| now.saturating_sub(resolved) >= timing.cooldown);
        (held && cool).then(|| {
            self.state = State::Firing { since };
            self.reported_at = now;
            Change::Fired
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(timing: Timing, steps: &[(u64, Option<bool>)]) -> Vec<(u64, Change)> {
        let mut rule = RuleState::default();
        let step = |&(secs, holds): &(u64, Option<bool>)| {
            let change = rule.step(Duration::from_secs(secs), holds, &timing)?;
            Some((secs, change))
        };
        steps.iter().filter_map(step).collect()
    }

    fn timing(hold: u64, cooldown: u64) -> Timing {
        Timing {
            hold: Duration::from_secs(hold),
            cooldown: Duration::from_secs(cooldown),
            repeat: Duration::ZERO,
        }
    }

    const YES: Option<bool> = Some(true);
    const NO: Option<bool> = Some(false);

    #[test]
    fn alarm_fires_once_and_resolves_once() {
        let seen = run(
            timing(0, 0),
            &[(0, NO), (1, YES), (2, YES), (3, NO), (4, NO), (5, YES)],
        );
        assert_eq!(
            seen,
            [
                (1, Change::Fired),
                (3, Change::Resolved),
                (5, Change::Fired)
            ]
        );
    }

    #[test]
    fn alarm_fires_only_after_holding_without_interruption() {
        let seen = run(
            timing(10, 0),
            &[(0, YES), (9, YES), (9, NO), (10, YES), (19, YES), (20, YES)],
        );
        assert_eq!(seen, [(20, Change::Fired)]);
    }

    #[test]
    fn flapping_condition_fires_again_only_after_the_cooldown() {
        let steps = [
            (0, YES),
            (1, NO),
            (2, YES),
            (3, NO),
            (4, YES),
            (60, YES),
            (61, YES),
        ];
        let seen = run(timing(0, 60), &steps);
        assert_eq!(
            seen,
            [
                (0, Change::Fired),
                (1, Change::Resolved),
                (61, Change::Fired)
            ]
        );
    }

    #[test]
    fn firing_alarm_is_repeated_at_its_interval() {
        let timing = Timing {
            repeat: Duration::from_secs(10),
            ..timing(0, 0)
        };
        let steps = [
            (0, YES),
            (9, YES),
            (10, YES),
            (11, None),
            (25, YES),
            (34, YES),
            (35, NO),
            (50, NO),
        ];
        let expected = [
            (0, Change::Fired),
            (10, Change::Repeated),
            (25, Change::Repeated),
            (35, Change::Resolved),
        ];
        assert_eq!(run(timing, &steps), expected);
    }

    #[test]
    fn unknown_state_neither_fires_nor_resolves_an_alarm() {
        assert!(run(timing(0, 0), &[(0, None), (1, None)]).is_empty());
        let seen = run(
            timing(0, 0),
            &[(0, YES), (1, None), (2, None), (3, YES), (4, NO)],
        );
        assert_eq!(seen, [(0, Change::Fired), (4, Change::Resolved)]);
    }
}
