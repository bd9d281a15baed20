# What the tests that break connections counted, from CTest's log: one line each. A test may have run more than once.
/^cut .*: [0-9]+ cuts, [0-9]+ lost, [0-9]+ doubled$/ { split($0, parts, ": "); counted[parts[1]] = parts[2] }
/^soak: / { soak = $0 }
END {
    for (name in counted) {
        split(counted[name], number, /[^0-9]+/)
        cuts += number[1]; lost += number[2]; doubled += number[3]
    }
    print "cut at every byte: " cuts " cuts, " lost " lost, " doubled " doubled"
    if (soak != "") print soak
}
