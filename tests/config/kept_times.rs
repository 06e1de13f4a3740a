//! Files that change and keep their modification times.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::watched::{APPLIED, Folder, Watched, text};

/// Programs that keep modification times, such as `cp -p` and `tar`, may give each version of a file the same one. A new
/// file may also get the inode of the deleted one.
#[test]
fn a_change_of_equal_size_with_the_same_modification_time_is_seen() {
    let folder = Folder::new("kept-times");
    let path = folder.join("clients.toml");
    let write = |attempts| {
        fs::write(&path, text(attempts)).unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
    };
    write(1);
    let mut watched = Watched::open(&path);
    assert!(watched.pass(10_000).is_empty());
    write(2);
    assert_eq!((watched.pass(2000), watched.attempts()), (applied(), 2));
    fs::remove_file(&path).unwrap();
    write(3);
    assert_eq!((watched.pass(2000), watched.attempts()), (applied(), 3));
    // A change of its permissions is none of its content.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(watched.pass(10_000).is_empty());
}

fn applied() -> Vec<String> {
    APPLIED.map(str::to_owned).to_vec()
}
