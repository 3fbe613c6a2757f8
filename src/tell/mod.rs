//! Tell: a notice -> the persona's words -> each webhook's format.
