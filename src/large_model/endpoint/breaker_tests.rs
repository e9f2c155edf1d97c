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

fn run(name: &str, failures: u32, steps: &[Step]) {
    let start = Instant::now();
    let at = |ms: &u64| start + Duration::from_millis(*ms);
    let mut breakers = Breakers::new(BreakerConfig { failures, pause_ms: 100 });
    let mut tickets = HashMap::new();
    for (number, step) in steps.iter().enumerate() {
        match step {
            Admit(ms, letter) => match breakers.admit("t", at(ms)) {
                Ok(ticket) => drop(tickets.insert(letter, ticket)),
                Err(wait) => panic!("{name}, step {number}: refused for {wait:?}"),
            },
            Refuse(ms, wait) => match breakers.admit("t", at(ms)) {
                Ok(_) => panic!("{name}, step {number}: admitted"),
                Err(got) => assert_eq!(got, Duration::from_millis(*wait), "{name}, step {number}"),
            },
            Answer(letter) => breakers.answers(&tickets[letter]),
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
fn targets_are_apart_and_bounded() {
    let now = Instant::now();
    let mut breakers = Breakers::new(BreakerConfig { failures: 1, pause_ms: 100 });
    let fail = |breakers: &mut Breakers, target: &str| {
        let ticket = breakers.admit(target, now).unwrap();
        breakers.record(&ticket, Bad, now);
        ticket
    };
    let ticket = fail(&mut breakers, "broken");
    assert!(breakers.is_stopped(&ticket) && breakers.admit("broken", now).is_err());
    assert!(breakers.admit("healthy", now).is_ok());
    for number in 0..2 * MOST_WATCHED {
        fail(&mut breakers, &number.to_string());
    }
    assert_eq!(breakers.watched.len(), MOST_WATCHED);
    let later = now + Duration::from_millis(100);
    for number in 0..MOST_WATCHED {
        let ticket = breakers.admit(&number.to_string(), later).unwrap();
        breakers.record(&ticket, Good, later);
    }
    assert!(breakers.watched.len() <= 1, "{}", breakers.watched.len());
}
