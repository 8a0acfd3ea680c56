//! The local tier: a bounded cache in this process, with tags, and no server behind it.
