//! Parses the syntax of a command, as the reference writes it, for COMMAND DOCS and the hints of `redis-cli`.
//!
//! | written | means |
//! |---|---|
//! | `word` | an argument of that name |
//! | `WORD` | exactly this word, alone or in front of the arguments that follow it |
//! | `[ … ]` | may be left out |
//! | `< … >` | belongs together |
//! | `a \| b` | one of these, inside brackets |
//! | `word [word ...]` | once or more; also with several words |

/// The kind of an argument, in the names and numbers of the server (`REDISMODULE_ARG_TYPE_…`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Kind {
    #[default]
    String = 0,
    Integer = 1,
    Key = 3,
    UnixTime = 5,
    /// A word that stands for itself.
    Word = 6,
    OneOf = 7,
    Block = 8,
}

/// An argument, or a group of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Arg {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// The word in front of it.
    pub(crate) word: Option<String>,
    pub(crate) is_optional: bool,
    pub(crate) is_multiple: bool,
    pub(crate) parts: Vec<Arg>,
}

impl Arg {
    fn new(name: &str, kind: Kind, parts: Vec<Self>) -> Self {
        let name = name.to_owned();
        Self {
            name,
            kind,
            parts,
            ..Self::default()
        }
    }

    fn word(word: &str) -> Self {
        Self {
            word: Some(word.to_owned()),
            ..Self::new(&word.to_ascii_lowercase(), Kind::Word, Vec::new())
        }
    }

    fn plain(name: &str) -> Self {
        let kind = match name {
            "key" => Kind::Key,
            "seconds" | "milliseconds" | "count" | "numkeys" | "token" | "n" => Kind::Integer,
            "unix-time-seconds" | "unix-time-milliseconds" => Kind::UnixTime,
            _ => Kind::String,
        };
        Self::new(name, kind, Vec::new())
    }

    /// Combines arguments into one.
    fn group(mut parts: Vec<Self>) -> Self {
        if parts.len() == 1 {
            return parts.remove(0);
        }
        let name = parts.first().map(|first| first.name.clone());
        Self::new(&name.unwrap_or_default(), Kind::Block, parts)
    }
}

/// Parses the syntax of a command.
pub(crate) fn parse(syntax: &str) -> Vec<Arg> {
    let spaced = ["[", "]", "<", ">", "|"]
        .iter()
        .fold(syntax.to_owned(), |text, mark| {
            text.replace(mark, &format!(" {mark} "))
        });
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = &words[..];
    sequence(&mut rest)
}

/// Reads up to the end, or to the word that closes or divides the brackets around it.
fn sequence(rest: &mut &[&str]) -> Vec<Arg> {
    arguments(rest, |word| matches!(word, "]" | ">" | "|"))
}

fn arguments(rest: &mut &[&str], is_end: fn(&str) -> bool) -> Vec<Arg> {
    let mut args: Vec<Arg> = Vec::new();
    while let Some((&word, behind)) = rest.split_first() {
        if let Some(len) = repetition(rest) {
            *rest = &behind[len + 2..];
            repeat_last(&mut args, len);
            continue;
        }
        if is_end(word) {
            break;
        }
        *rest = behind;
        args.push(match word {
            "[" => Arg {
                is_optional: true,
                ..alternatives(rest)
            },
            "<" => alternatives(rest),
            word if word.starts_with(char::is_uppercase) => behind_word(word, rest),
            word => Arg::plain(word),
        });
    }
    args
}

/// The arguments that belong to a word: everything up to the next word or the end of the brackets.
fn behind_word(word: &str, rest: &mut &[&str]) -> Arg {
    let args = arguments(rest, |next| {
        next != "<" && !next.starts_with(char::is_lowercase)
    });
    if args.is_empty() {
        return Arg::word(word);
    }
    let mut arg = Arg::group(args);
    if arg.kind == Kind::Block {
        arg.name = word.to_ascii_lowercase();
    }
    arg.word = Some(word.to_owned());
    arg
}

/// The number of words in `[word ... ]`, if that comes next.
fn repetition(rest: &[&str]) -> Option<usize> {
    let (&"[", behind) = rest.split_first()? else {
        return None;
    };
    let len = behind.iter().position(|&word| word == "...")?;
    let is_plain = behind[..len]
        .iter()
        .all(|word| word.starts_with(char::is_lowercase));
    (is_plain && behind.get(len + 1) == Some(&"]")).then_some(len)
}

/// Lets the last arguments come more than once, together.
fn repeat_last(args: &mut Vec<Arg>, count: usize) {
    let repeated = args.split_off(args.len().saturating_sub(count));
    let mut arg = Arg::group(repeated);
    arg.is_multiple = true;
    args.push(arg);
}

/// Reads the alternatives inside brackets, and the closing bracket.
fn alternatives(rest: &mut &[&str]) -> Arg {
    let mut choices = Vec::new();
    loop {
        choices.push(Arg::group(sequence(rest)));
        let is_last = rest.first() != Some(&"|");
        *rest = rest.get(1..).unwrap_or_default();
        if is_last {
            break;
        }
    }
    if choices.len() == 1 {
        return choices.remove(0);
    }
    let names: Vec<&str> = choices.iter().map(|choice| &*choice.name).collect();
    Arg::new(&names.join("-or-"), Kind::OneOf, choices)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The syntax as `redis-cli` would show it.
    fn show(args: &[Arg]) -> String {
        let shown: Vec<String> = args.iter().map(show_one).collect();
        shown.join(" ")
    }

    fn show_one(arg: &Arg) -> String {
        let inner = match arg.kind {
            Kind::Word => String::new(),
            Kind::OneOf => {
                let parts: Vec<String> = arg.parts.iter().map(show_one).collect();
                parts.join("|")
            }
            Kind::Block => show(&arg.parts),
            _ => arg.name.clone(),
        };
        let inner = if arg.is_multiple {
            format!("{inner} [{inner} ...]")
        } else {
            inner
        };
        let word = arg.word.clone().unwrap_or_default();
        let whole = format!("{word} {inner}");
        if arg.is_optional {
            format!("[{}]", whole.trim())
        } else {
            whole.trim().to_owned()
        }
    }

    #[test]
    fn a_syntax_is_parsed_into_its_arguments() {
        for (syntax, shown) in [
            ("key [key ...]", "key [key ...]"),
            ("key n [key n ...]", "key n [key n ...]"),
            (
                "key value [EX seconds | PX milliseconds | KEEPTTL] [NX | XX] [TAGS count tag [tag ...]]",
                "key value [EX seconds|PX milliseconds|KEEPTTL] [NX|XX] [TAGS count tag [tag ...]]",
            ),
            (
                "key <EX seconds | PERSIST> [GRACE milliseconds]",
                "key EX seconds|PERSIST [GRACE milliseconds]",
            ),
            (
                "[BY <ENTRIES | BYTES>] [LIMIT n]",
                "[BY ENTRIES|BYTES] [LIMIT n]",
            ),
            ("", ""),
        ] {
            assert_eq!(show(&parse(syntax)), shown, "{syntax}");
        }
    }

    #[test]
    fn an_argument_name_determines_its_kind() {
        let kinds: Vec<Kind> = parse("key value count PXAT unix-time-milliseconds")
            .into_iter()
            .map(|arg| arg.kind)
            .collect();
        assert_eq!(
            kinds,
            [Kind::Key, Kind::String, Kind::Integer, Kind::UnixTime]
        );
    }
}
