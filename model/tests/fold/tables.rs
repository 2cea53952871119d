//! Every text table is a test.

use crate::table::check;

macro_rules! tables {
    ($($name:ident),*) => {$(
        #[test]
        fn $name() {
            check(concat!(stringify!($name), ".txt"), include_str!(concat!(stringify!($name), ".txt")));
        }
    )*};
}

tables!(
    writes,
    deletes,
    times,
    repeats,
    members,
    backups,
    restores,
    tombstones,
    unappliable,
    pulls
);
