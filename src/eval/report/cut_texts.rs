//! What the report says about replies and turns that were cut off.

use super::ArmSummary;

/// The number of texts of an arm that were cut off, for a table.
pub(super) fn shown(arm: &ArmSummary) -> String {
    let &ArmSummary { cut_replies, cut_turns, cut_unknown, answered, .. } = arm;
    if answered > 0 && cut_unknown == answered {
        return "unknown".into();
    }
    let turns = if cut_turns > 0 { format!(" and {}", turns(cut_turns)) } else { String::new() };
    let more = if cut_unknown > 0 { " or more" } else { "" };
    format!("{cut_replies}{turns}{more}")
}

/// Warnings about an arm with texts that were cut off, or of which that is not known.
pub(super) fn warnings(arm: &ArmSummary, large_model: &str) -> Vec<String> {
    let &ArmSummary { cut_replies, cut_turns, cut_answers, cut_unknown, answered, .. } = arm;
    let (mut what, mut settings) = (Vec::new(), Vec::new());
    if cut_replies > 0 {
        let replies = if cut_replies == 1 { "reply" } else { "replies" };
        what.push(format!("{cut_replies} {replies} of the large model"));
        settings.push(format!("`params.max_tokens` of the large model `{large_model}`"));
    }
    if cut_turns > 0 {
        what.push(format!("{} of the policy", turns(cut_turns)));
        settings.push("`episode.max_turn_tokens`".to_owned());
    }
    let name = &arm.name;
    let mut warnings = Vec::new();
    if !what.is_empty() {
        let (what, settings) = (what.join(" and "), settings.join(" and "));
        warnings.push(format!(
            "`{name}`: {what} cut off in {cut_answers} of {answered} answers, which are scored like complete ones: raise {settings}; the questions are then asked again"
        ));
    }
    if cut_unknown > 0 {
        warnings.push(format!(
            "`{name}`: {cut_unknown} of {answered} answers are of an earlier version, which did not count what was cut off"
        ));
    }
    warnings
}

fn turns(count: u64) -> String {
    format!("{count} turn{}", if count == 1 { "" } else { "s" })
}
