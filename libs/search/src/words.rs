//! PURE. Words of a text, and what a search for some of them means; the same for every index.
//!
//! Words are runs of letters and digits, without difference of case and in composed form (NFKC). What cannot be seen (soft hyphens,
//! joiners: Unicode's default-ignorable code points) and marks that compose with nothing are passed over, and end no word. Korean, Chinese and Japanese are written
//! without spaces where a search has them, and with endings where a search has none: a run of such characters becomes its
//! overlapping pairs (bigrams) and its last character. So 보성녹차 is found by 녹차, by 성녹 and by 차.
use icu_properties::CodePointSetData;
use icu_properties::props::DefaultIgnorableCodePoint;
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// The longest text that can be searched for, in characters.
pub const MAX_QUERY_CHARS: usize = 200;

/// What one word of a search must match. All words of a search must.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Term {
    /// A token that begins so.
    Prefix(String),
    /// These tokens, one after the other.
    Phrase(Vec<String>),
}

/// The tokens of a text, in order.
#[must_use]
pub fn tokens(text: &str) -> Vec<String> {
    let of_run = |run: Run| match run {
        Run::Word(word) => vec![word],
        Run::Cjk(chars) => {
            let last = chars.last().map(char::to_string);
            pairs(&chars).chain(last).collect()
        }
    };
    runs(text).into_iter().flat_map(of_run).collect()
}

/// What a search for a text means.
///
/// # Errors
/// A sentence, if it is too long or has nothing to search for.
pub fn terms(query: &str) -> Result<Vec<Term>, String> {
    let length = query.chars().count();
    if length > MAX_QUERY_CHARS {
        return Err(format!("a search has at most {MAX_QUERY_CHARS} characters, not {length}"));
    }
    let of_run = |run: Run| match run {
        Run::Word(word) => Term::Prefix(word),
        Run::Cjk(chars) if chars.len() == 1 => Term::Prefix(chars.iter().collect()),
        Run::Cjk(chars) => Term::Phrase(pairs(&chars).collect()),
    };
    let terms: Vec<_> = runs(query).into_iter().map(of_run).collect();
    if terms.is_empty() { Err("a search needs at least one letter or digit".to_owned()) } else { Ok(terms) }
}

enum Run {
    Word(String),
    Cjk(Vec<char>),
}

fn runs(text: &str) -> Vec<Run> {
    let mut runs: Vec<Run> = vec![];
    let mut open = false;
    let ignorable = CodePointSetData::new::<DefaultIgnorableCodePoint>();
    let seen = text.chars().filter(|c| c.is_ascii() || !ignorable.contains(*c));
    // By way of upper case: ß and ς are SS and Σ then.
    let folded = seen.nfkc().flat_map(char::to_uppercase).flat_map(char::to_lowercase).nfkc();
    for c in folded {
        if !c.is_alphanumeric() {
            // The dot of İ in lower case, and the like.
            if is_combining_mark(c) {
                continue;
            }
            open = false;
            continue;
        }
        match (runs.last_mut().filter(|_| open), is_cjk(c)) {
            (Some(Run::Word(word)), false) => word.push(c),
            (Some(Run::Cjk(chars)), true) => chars.push(c),
            (_, true) => runs.push(Run::Cjk(vec![c])),
            (_, false) => runs.push(Run::Word(c.to_string())),
        }
        open = true;
    }
    runs
}

fn pairs(chars: &[char]) -> impl Iterator<Item = String> {
    chars.windows(2).map(|pair| pair.iter().collect())
}

fn is_cjk(c: char) -> bool {
    matches!(c, '\u{1100}'..='\u{11ff}' | '\u{3040}'..='\u{30ff}' | '\u{3130}'..='\u{318f}' | '\u{3400}'..='\u{4dbf}'
        | '\u{4e00}'..='\u{9fff}' | '\u{ac00}'..='\u{d7ff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{323af}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_are_runs_of_letters_and_digits_and_cjk_becomes_pairs() {
        assert_eq!(tokens("Boseong green-tea 100g"), ["boseong", "green", "tea", "100g"]);
        assert_eq!(tokens("보성 녹차 100g"), ["보성", "성", "녹차", "차", "100g"]);
        assert_eq!(tokens("보성녹차"), ["보성", "성녹", "녹차", "차"]);
        assert_eq!(tokens("먹"), ["먹"]);
        assert_eq!(tokens("녹차A등급"), ["녹차", "차", "a", "등급", "급"]);
    }

    #[test]
    fn decomposed_and_wide_forms_are_the_same_words() {
        let decomposed: String = "보성 녹차".nfd().collect();
        assert_eq!(tokens(&decomposed), tokens("보성 녹차"));
        assert_eq!(tokens("ＴＥＡ"), ["tea"]);
    }

    #[test]
    fn what_cannot_be_seen_is_no_part_of_a_word() {
        for hidden in
            ['\u{ad}', '\u{200b}', '\u{200d}', '\u{2060}', '\u{feff}', '\u{34f}', '\u{115f}', '\u{3164}', '\u{e0101}']
        {
            for (text, word) in [(format!("말차{hidden}케이크"), "말차케이크"), (format!("Bo{hidden}seong"), "boseong")]
            {
                assert_eq!((tokens(&text), terms(&text)), (tokens(word), terms(word)), "{text:?}");
            }
            assert!(terms(&hidden.to_string()).is_err(), "{hidden:?}");
        }
        // Not even between what belongs together.
        assert_eq!(tokens("e\u{34f}\u{301}t\u{e9}"), tokens("\u{e9}t\u{e9}"));
    }

    #[test]
    fn case_and_marks_make_no_other_word() {
        let alike = [
            ["\u{130}stanbul", "istanbul"],
            ["I\u{307}stanbul", "istanbul"],
            ["STRASSE", "straße"],
            ["ΟΔΟΣ", "οδος"],
            ["CAFE\u{301}", "caf\u{e9}"],
        ];
        for [one, other] in alike {
            assert_eq!((tokens(one), terms(one)), (tokens(other), terms(other)), "{one} {other}");
            assert_eq!(tokens(one).len(), 1, "{one}");
        }
        assert_eq!(tokens("हिन्दी").len(), 1, "a mark within a word does not end it");
        assert_ne!(tokens("cafe"), tokens("caf\u{e9}"));
    }

    #[test]
    fn what_has_nothing_to_search_for_or_too_much_is_refused() {
        for nothing in ["", " ", "\"*^:-()", "\0", "🍵"] {
            assert!(terms(nothing).is_err(), "{nothing:?}");
        }
        assert!(terms(&"a".repeat(201)).unwrap_err().contains("at most 200 characters, not 201"));
        assert!(terms(&"x".repeat(10_000)).is_err());
        assert_eq!(terms("차").unwrap(), [Term::Prefix("차".into())]);
        assert_eq!(terms("녹차 bos").unwrap(), [Term::Phrase(vec!["녹차".into()]), Term::Prefix("bos".into())]);
    }

    proptest! {
        #[test]
        fn every_word_of_a_text_is_found_in_it(text in "\\PC{0,40}") {
            let of_text = tokens(&text);
            for token in &of_text {
                prop_assert!(token.chars().all(char::is_alphanumeric));
            }
            if let Ok(terms) = terms(&text) {
                for term in terms {
                    let found = match term {
                        Term::Prefix(word) => of_text.iter().any(|token| token.starts_with(&word)),
                        Term::Phrase(words) => of_text.windows(words.len()).any(|window| window == words),
                    };
                    prop_assert!(found, "{text:?}");
                }
            }
        }
    }
}
