//! Slots that move as a whole (CLUSTER MIGRATION of Redis 8.4 and newer).

mod trim;
