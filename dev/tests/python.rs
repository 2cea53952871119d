//! DuckDB and PyArrow as a test runs them.
#![allow(clippy::unwrap_used, reason = "a test may panic, and so may its helpers")]

use std::path::Path;
use std::process::Command;

/// PyArrow writes two rows and DuckDB adds them up.
const SCRIPT: &str = "
import duckdb, pyarrow, pyarrow.parquet, sys
path = sys.argv[1]
pyarrow.parquet.write_table(pyarrow.table({'number': [19, 23]}), path)
print(duckdb.sql(f\"SELECT sum(number) FROM read_parquet('{path}')\").fetchone()[0])
print(duckdb.__version__)
";

fn python(packages: &Path, script: &str, argument: &Path) -> String {
    let mut python = Command::new("python3");
    python.args(["-c", script]).arg(argument).env("PYTHONPATH", packages);
    let output = python.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn what_one_writes_the_other_reads() {
    let packages = dev::python::for_tests().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let said = python(&packages, SCRIPT, &directory.path().join("numbers.parquet"));
    assert_eq!(said, format!("42\n{}\n", dev::python::DUCKDB));
}
