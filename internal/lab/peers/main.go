// Peers measures the library and other ways to keep a Go client authenticated,
// all with the same work, and prints the table of the README.
//
//	go -C internal/lab/peers run .
//
// All but the accepted request is sent over loopback, to servers in a process of
// their own, which speak each peer's protocol. What is a time or a rate is in
// relation to the bare base, an http.Client whose requests have a token already,
// which is measured in turn with each. It takes a quarter of an hour, and wants
// the machine for itself.
//
// The flags:
//
//	-quick         everything once and small, for tests: half a minute, and the timings are worth nothing
//	-rounds N      how often each is measured (5)
//	-only NAMES    only these scenarios, with commas; a name's beginning is enough
//	-peers NAMES   only these peers, with commas
//
// Besides the peers it measures the base against itself. How far that is from 0
// and from 1 is the noise, which the table is followed by.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
)

func main() {
	if isServers() {
		defer runtime.KeepAlive(make([]byte, ballast))

		serve()
		return
	}
	if err := run(context.Background(), os.Args[1:], os.Stdout, os.Stderr); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

// ballast is as large a heap as some services have, in bytes: with none, requests
// without a body would measure the collector. Bodies are measured without it, from a
// heap of a few MiB, for what they allocate is theirs.
const ballast = 256 << 20

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	r, err := parse(args, stderr)
	if err != nil {
		return err
	}
	if r.results, err = measureAll(ctx, r.scenarios, append(slices.Clone(r.peers), bare), r.size, stderr); err != nil {
		return err
	}
	r.write(stdout)
	return nil
}

// parse makes a report that has no results yet.
func parse(args []string, stderr io.Writer) (report, error) {
	f := flag.NewFlagSet("peers", flag.ContinueOnError)
	f.SetOutput(stderr)
	small := f.Bool("quick", false, "everything once and small; the timings are worth nothing")
	rounds := f.Int("rounds", 0, "how often each is measured (default 5)")
	only := f.String("only", "", "only the scenarios with these `NAMES`")
	who := f.String("peers", "", "only the peers with these `NAMES`")
	if err := f.Parse(args); err != nil {
		return report{}, err
	}
	size := full
	if *small {
		size = quick
	}
	if *rounds > 0 {
		size.rounds = *rounds
	}
	r := report{size: size}
	var err error
	if r.scenarios, err = choose(*only, scenarios(size), func(s scenario) string { return s.name }); err != nil {
		return report{}, fmt.Errorf("-only: %w", err)
	}
	if r.peers, err = choose(*who, peers(), func(p peer) string { return p.name }); err != nil {
		return report{}, fmt.Errorf("-peers: %w", err)
	}
	return r, nil
}

// choose returns those whose names begin with one of the names in the list.
func choose[T any](list string, all []T, name func(T) string) ([]T, error) {
	if list == "" {
		return all, nil
	}
	var chosen []T
	for _, prefix := range strings.Split(list, ",") {
		n := len(chosen)
		for _, one := range all {
			if strings.HasPrefix(name(one), prefix) {
				chosen = append(chosen, one)
			}
		}
		if len(chosen) == n {
			var names []string
			for _, one := range all {
				names = append(names, name(one))
			}
			return nil, fmt.Errorf("there is no %q among: %s", prefix, strings.Join(names, ", "))
		}
	}
	return slices.Clip(chosen), nil
}
