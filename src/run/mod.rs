//! Run: one task owns the Controller and joins the rooms.
