# Passes the output of `cargo test` on. Ends it with what was skipped, run again or failed, each with why, and one line over all
# test binaries: nobody has to look for them in what was printed in between.
{ print; fflush() }
/^test result:/ { passed += $4; failed += $6; skipped += $8; telling = 0 }
# A test that found out for itself counts as passed for its harness.
/^skipped: / { passed--; skipped++ }
/^(will be )?skipped: / { reasons = reasons "\n" $0 }
# It passed then, or is among what failed.
/^run again: / { reasons = reasons "\n" $0 }
# Harnesses tell failures twice under this word: what each said, then their names.
/^failures:$/ { telling = !telling; next }
telling && /^---- .* ----$/ { said = 0 }
telling && said++ < 40 { failures = failures "\n" substr($0, 1, 1000) }
END {
    if (failures) print "\nwhat failed (the first 40 lines of each):" failures
    printf "%s\n%d passed, %d failed, %d skipped\n", reasons, passed, failed, skipped
    exit failed > 0 || passed <= 0 || (ENVIRON["CI"] == "true" && skipped > 0)
}
