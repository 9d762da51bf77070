# Passes the output of `cargo test` on and ends it with one line over all test binaries.
{ print; fflush() }
/^test result:/ { passed += $4; failed += $6; skipped += $8 }
END {
    printf "\n%d passed, %d failed, %d skipped\n", passed, failed, skipped
    exit failed > 0 || passed == 0 || (ENVIRON["CI"] == "true" && skipped > 0)
}
