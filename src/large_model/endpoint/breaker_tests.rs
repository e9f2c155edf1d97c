#![allow(clippy::unwrap_used, clippy::panic)]

use super::*;

/// An event, at a time in milliseconds.
enum Step {
    /// A request is permitted; this letter names it later.
    Admit(u64, char),
    /// A request is refused, with so many milliseconds of the pause left.
    Refuse(u64, u64),
    /// A response to the request begins.
    Answer(char),
    /// The request ends.
    End(u64, char, Health),
}
use Health::{Bad, Good, Unknown};
use Step::{Admit, Answer, End, Refuse};

/// The caller of a request: capital letters are another's.
fn whose(letter: char) -> u64 {
    u64::from(letter.is_ascii_uppercase())
}

fn run(name: &str, failures: u32, steps: &[Step]) {
    let start = Instant::now();
    let at = |ms: &u64| start + Duration::from_millis(*ms);
    let mut breakers = Breakers::new(BreakerConfig { failures, pause_ms: 100 });
    let mut tickets = HashMap::new();
    for (number, step) in steps.iter().enumerate() {
        match step {
            Admit(ms, letter) => match breakers.admit("t", whose(*letter), at(ms)) {
                Ok(ticket) => drop(tickets.insert(letter, ticket)),
                Err(wait) => panic!("{name}, step {number}: refused for {wait:?}"),
            },
            Refuse(ms, wait) => match breakers.admit("t", 0, at(ms)) {
                Ok(_) => panic!("{name}, step {number}: admitted"),
                Err(got) => assert_eq!(got, Duration::from_millis(*wait), "{name}, step {number}"),
            },
            Answer(letter) => breakers.response_began(&tickets[letter]),
            End(ms, letter, health) => breakers.record(&tickets[letter], *health, at(ms)),
        }
    }
}

#[test]
fn opens_probes_and_closes() {
    run(
        "stays closed below the limit",
        2,
        &[
            Admit(0, 'a'),
            End(1, 'a', Bad),
            Admit(2, 'b'),
            End(3, 'b', Good),
            Admit(4, 'c'),
            End(5, 'c', Good),
            Admit(6, 'd'),
            End(7, 'd', Good),
            Admit(8, 'e'),
            End(9, 'e', Bad),
            Admit(10, 'f'),
        ],
    );
    run(
        "opens when half of the last requests failed, for the pause",
        2,
        &[
            Admit(0, 'a'),
            End(1, 'a', Bad),
            Admit(2, 'b'),
            End(3, 'b', Good),
            Admit(4, 'c'),
            End(10, 'c', Bad),
            Refuse(10, 100),
            Refuse(109, 1),
            Admit(110, 'd'),
        ],
    );
    run(
        "half-open lets three through",
        1,
        &[
            Admit(0, 'a'),
            End(0, 'a', Bad),
            Admit(100, 'b'),
            Admit(100, 'c'),
            Admit(100, 'd'),
            Refuse(101, 100),
            End(102, 'b', Bad),
            Refuse(102, 100),
            End(103, 'c', Good),
            Admit(104, 'e'),
            Admit(104, 'f'),
            Admit(104, 'g'),
            Admit(104, 'h'),
        ],
    );
    run(
        "a probe that is answered need not end",
        1,
        &[
            Admit(0, 'a'),
            End(0, 'a', Bad),
            Admit(100, 'b'),
            Answer('b'),
            Admit(102, 'c'),
            Admit(102, 'd'),
            Admit(102, 'e'),
            Admit(102, 'f'),
            // Whatever its result.
            End(103, 'b', Bad),
            Admit(104, 'g'),
        ],
    );
    run(
        "three failed probes open again",
        1,
        &[
            Admit(0, 'a'),
            End(0, 'a', Bad),
            Admit(100, 'b'),
            Admit(100, 'c'),
            End(150, 'b', Bad),
            End(150, 'c', Bad),
            Admit(150, 'd'),
            End(151, 'd', Bad),
            Refuse(152, 99),
            Admit(251, 'e'),
        ],
    );
    run(
        "a probe that was given up makes room for another",
        1,
        &[
            Admit(0, 'a'),
            End(0, 'a', Bad),
            Admit(100, 'b'),
            Admit(100, 'c'),
            Admit(100, 'd'),
            End(120, 'b', Unknown),
            Admit(121, 'e'),
            Refuse(122, 100),
        ],
    );
    run(
        "earlier requests do not count",
        1,
        &[
            Admit(0, 'a'),
            Admit(0, 'b'),
            Admit(0, 'c'),
            End(1, 'a', Bad),
            End(2, 'b', Good),
            Answer('b'),
            Refuse(3, 98),
            End(60, 'c', Bad),
            Refuse(61, 40),
            Admit(101, 'd'),
            End(103, 'd', Good),
            Admit(104, 'e'),
        ],
    );
    run(
        "cancelled requests count for nothing",
        2,
        &[
            Admit(0, 'a'),
            End(1, 'a', Bad),
            Admit(2, 'b'),
            End(3, 'b', Unknown),
            Admit(4, 'c'),
            End(5, 'c', Bad),
            Refuse(6, 99),
        ],
    );
    run(
        "zero switches it off",
        0,
        &[Admit(0, 'a'), End(1, 'a', Bad), Admit(2, 'b'), End(3, 'b', Bad), Admit(4, 'c')],
    );
}

#[test]
fn a_caller_shuts_out_itself_alone() {
    run(
        "failures of one caller open its own breaker",
        2,
        &[
            Admit(0, 'a'),
            End(0, 'a', Bad),
            Admit(1, 'b'),
            End(1, 'b', Bad),
            Refuse(2, 99),
            Admit(2, 'A'),
            End(3, 'A', Good),
        ],
    );
    run(
        "failures of several open that of all",
        4,
        &[
            Admit(0, 'A'),
            End(0, 'A', Bad),
            Admit(1, 'B'),
            End(1, 'B', Bad),
            Admit(2, 'C'),
            // The third of one caller does not count.
            End(2, 'C', Bad),
            Admit(3, 'a'),
            End(3, 'a', Bad),
            Admit(4, 'b'),
            End(4, 'b', Bad),
            Refuse(5, 99),
        ],
    );
    let opened = || {
        let begun = ['a', 'b', 'A', 'B'].map(|letter| Admit(0, letter));
        let ended = ['a', 'b', 'A', 'B'].map(|letter| End(0, letter, Bad));
        begun.into_iter().chain(ended).chain([Refuse(1, 99)])
    };
    let probed = [
        Admit(100, 'X'),
        // Another's probe does not take the place of this one.
        Admit(100, 'x'),
        Refuse(101, 100),
        End(101, 'X', Bad),
        End(102, 'x', Good),
        Admit(103, 'y'),
        Admit(103, 'z'),
    ];
    run("each has one probe", 4, &opened().chain(probed).collect::<Vec<_>>());
    let alone = [
        Admit(100, 'x'),
        End(101, 'x', Bad),
        Refuse(102, 100),
        // No other caller probes it.
        Admit(200, 'y'),
        End(201, 'y', Good),
        Admit(202, 'z'),
    ];
    run("one alone probes once a pause", 4, &opened().chain(alone).collect::<Vec<_>>());
}

#[test]
fn a_refused_probe_is_given_back() {
    let now = Instant::now();
    let at = |ms: u64| now + Duration::from_millis(ms);
    let mut breakers = Breakers::new(BreakerConfig { failures: 1, pause_ms: 100 });
    // Opens both breakers of caller 1.
    for caller in [1, 2] {
        let ticket = breakers.admit("t", caller, now).unwrap();
        breakers.record(&ticket, Bad, now);
    }
    let probe = breakers.admit("t", 1, at(100)).unwrap();
    for _ in 0..2 * PROBES {
        assert!(breakers.admit("t", 1, at(101)).is_err());
    }
    breakers.record(&probe, Unknown, at(102));
    // Closes that of all.
    let probe = breakers.admit("t", 3, at(103)).unwrap();
    breakers.record(&probe, Good, at(104));
    // Its own has room for all probes.
    for _ in 0..PROBES {
        assert!(breakers.admit("t", 1, at(105)).is_ok());
    }
}

#[test]
fn targets_are_apart_and_bounded() {
    let now = Instant::now();
    let mut breakers = Breakers::new(BreakerConfig { failures: 1, pause_ms: 100 });
    let fail = |breakers: &mut Breakers, target: &str| {
        let ticket = breakers.admit(target, 0, now).unwrap();
        breakers.record(&ticket, Bad, now);
        ticket
    };
    let ticket = fail(&mut breakers, "broken");
    assert!(breakers.is_revoked(&ticket) && breakers.admit("broken", 0, now).is_err());
    assert!(breakers.admit("healthy", 0, now).is_ok());
    for number in 0..2 * MAX_TRACKED {
        fail(&mut breakers, &number.to_string());
    }
    assert_eq!(breakers.tracked.len(), MAX_TRACKED);
    let later = now + Duration::from_millis(100);
    for number in 0..MAX_TRACKED {
        let ticket = breakers.admit(&number.to_string(), 0, later).unwrap();
        breakers.record(&ticket, Good, later);
    }
    assert!(breakers.tracked.len() <= 1, "{}", breakers.tracked.len());
}
