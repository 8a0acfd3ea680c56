//! Replies, RESP2 and RESP3.

/// One reply, as the server typed it.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// `+OK`
    Simple(String),
    /// `-ERR ...`, with its prefix.
    Error(String),
    /// `:1`
    Int(i64),
    /// `$...` and, in RESP3, `=...` (verbatim, its three-letter type cut off).
    Bulk(Vec<u8>),
    /// `$-1`, `*-1` or `_`
    Null,
    /// `*...`
    Array(Vec<Reply>),
    /// `%...`
    Map(Vec<(Reply, Reply)>),
    /// `~...`
    Set(Vec<Reply>),
    /// `,1.5`
    Double(f64),
    /// `#t`
    Bool(bool),
    /// `(123`
    BigNumber(String),
    /// `>...`: out of band, so [`RawClient::call`](crate::RawClient::call) never returns one.
    Push(Vec<Reply>),
}

impl Reply {
    /// `+OK`.
    pub fn ok() -> Self {
        Self::Simple("OK".to_owned())
    }

    /// A bulk string.
    pub fn bulk(bytes: impl AsRef<[u8]>) -> Self {
        Self::Bulk(bytes.as_ref().to_vec())
    }

    /// The text of an error, or nothing.
    pub fn error(&self) -> Option<&str> {
        if let Self::Error(text) = self {
            Some(text)
        } else {
            None
        }
    }

    /// Whether it is an error.
    pub fn is_error(&self) -> bool {
        self.error().is_some()
    }

    /// Whether it is a null of any kind.
    pub fn is_null(&self) -> bool {
        *self == Self::Null
    }

    /// An integer, also when it was sent as a string.
    ///
    /// # Panics
    /// Panics if the reply is not an integer.
    pub fn int(&self) -> i64 {
        match self {
            Self::Int(n) => *n,
            Self::Bulk(bytes) => String::from_utf8_lossy(bytes)
                .parse()
                .expect("a bulk string holding an integer"),
            other => panic!("not an integer: {other:?}"),
        }
    }

    /// A double, also when it was sent as a string (RESP2).
    ///
    /// # Panics
    /// Panics if the reply is not a double.
    pub fn double(&self) -> f64 {
        match self {
            Self::Double(d) => *d,
            Self::Bulk(bytes) => String::from_utf8_lossy(bytes)
                .parse()
                .expect("a bulk string holding a double"),
            other => panic!("not a double: {other:?}"),
        }
    }

    /// The bytes of a string.
    ///
    /// # Panics
    /// Panics if the reply is not a string.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Bulk(bytes) => bytes,
            Self::Simple(text) => text.as_bytes(),
            other => panic!("not a string: {other:?}"),
        }
    }

    /// A string, broken UTF-8 replaced.
    ///
    /// # Panics
    /// Panics if the reply is not a string.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(self.bytes()).into_owned()
    }

    /// The items of an array, set or push.
    ///
    /// # Panics
    /// Panics if the reply is none of these.
    pub fn items(&self) -> &[Reply] {
        match self {
            Self::Array(items) | Self::Set(items) | Self::Push(items) => items,
            other => panic!("not an array: {other:?}"),
        }
    }

    /// The pairs of a map, which RESP2 sends as a flat array.
    ///
    /// # Panics
    /// Panics if the reply is neither.
    pub fn pairs(&self) -> Vec<(String, Reply)> {
        match self {
            Self::Map(pairs) => pairs.iter().map(|(k, v)| (k.text(), v.clone())).collect(),
            Self::Array(items) => {
                assert!(
                    items.len() % 2 == 0,
                    "a flat map has an even length: {items:?}"
                );
                items
                    .chunks(2)
                    .map(|pair| (pair[0].text(), pair[1].clone()))
                    .collect()
            }
            other => panic!("not a map: {other:?}"),
        }
    }

    /// The value of a field of a map.
    ///
    /// # Panics
    /// Panics if the reply is not a map or has no such field.
    #[must_use]
    pub fn field(&self, name: &str) -> Reply {
        let found = self.pairs().into_iter().find(|(key, _)| key == name);
        found
            .unwrap_or_else(|| panic!("no field {name} in {self:?}"))
            .1
    }
}
