use fjall::{Database, KeyspaceCreateOptions, PersistMode};
use std::{fs, path::Path};
fn copy(a: &Path, b: &Path) { fs::create_dir_all(b).unwrap(); for e in fs::read_dir(a).unwrap() { let e=e.unwrap(); let t=b.join(e.file_name()); if e.file_type().unwrap().is_dir() { copy(&e.path(), &t) } else { fs::copy(e.path(), t).unwrap(); } } }
fn journal(d:&Path)->std::path::PathBuf { let mut v:Vec<_>=walk(d).into_iter().filter(|p|p.extension().is_some_and(|e|e=="jnl")).collect(); v.sort(); v.pop().unwrap() }
fn walk(d:&Path)->Vec<std::path::PathBuf>{ let mut v=vec![]; for e in fs::read_dir(d).unwrap(){ let p=e.unwrap().path(); if p.is_dir(){v.extend(walk(&p))} else {v.push(p)} } v }
#[test]
fn probe() {
    let dir = tempfile::tempdir().unwrap();
    let a = dir.path().join("a");
    let db = Database::builder(&a).open().unwrap();
    let ks = db.keyspace("x", KeyspaceCreateOptions::default).unwrap();
    for b in 0..50u64 { let mut batch = db.batch().durability(Some(PersistMode::SyncAll)); for i in 0..20u64 { batch.insert(&ks, (b*20+i).to_be_bytes(), vec![7u8; 700]); } batch.commit().unwrap(); }
    let snap = dir.path().join("snap"); copy(&a, &snap);
    let j = journal(&snap); let bytes = fs::read(&j).unwrap();
    let used = bytes.iter().rposition(|b| *b != 0).unwrap() + 1;
    println!("journal {} bytes, used {used}", bytes.len());
    let cases: Vec<(String, Box<dyn Fn(&mut Vec<u8>)>)> = vec![
        ("truncate 10".into(), Box::new(move |v| v.truncate(used - 10))),
        ("truncate 5000".into(), Box::new(move |v| v.truncate(used - 5000))),
        ("flip 1 byte of the last value".into(), Box::new(move |v| v[used - 100] ^= 1)),
        ("zero page in last batch".into(), Box::new(move |v| { let p = (used/4096 - 1)*4096; v[p..p+4096].fill(0) })),
        ("zero 100 bytes in last batch".into(), Box::new(move |v| { let p = used-300; v[p..p+100].fill(0) })),
        ("flip one value byte in the middle (acked)".into(), Box::new(move |v| v[used/2] ^= 1)),
        ("zero 4096 in the middle (acked)".into(), Box::new(move |v| v[used/2..used/2+4096].fill(0))),
        ("garbage after the end".into(), Box::new(move |v| for i in used..used+3000 { v[i] = (i*31 % 251) as u8 })),
    ];
    for (name, f) in cases {
        let d = dir.path().join(name.replace(' ', "_")); copy(&snap, &d);
        let jj = journal(&d); let mut v = bytes.clone(); f(&mut v); fs::write(&jj, &v).unwrap();
        let r = std::panic::catch_unwind(|| Database::builder(&d).open().map(|db| { let ks = db.keyspace("x", KeyspaceCreateOptions::default).unwrap(); ks.len().unwrap() }));
        println!("{name}: {r:?}");
    }
}
