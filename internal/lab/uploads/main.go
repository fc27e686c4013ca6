// Uploads measures what a recorded upload costs a service, and prints tables.
//
//	go -C internal/lab/uploads run . -against e81ec08
//
// Each sender is a process of its own, with a heap of a few MiB and the default
// GOGC: the base, an [http.Transport] whose requests have their token already;
// Auth over that base; Auth as it was at the commit of -against; and, where
// uploads are many at once, x/oauth2. They send bodies without GetBody over
// loopback to a server in another process. After a warm-up they take turns. Each
// ratio is the median of those of the turns.
//
// It takes a quarter of an hour, and wants the machine for itself. The flags:
//
//	-against COMMIT  the build before, which is made in a temporary directory
//	-turns N         how often each sender is measured (15)
//	-only NAMES      only the cases whose names contain one of these, with commas
//	-quick           two short turns, for tests; the timings are worth nothing
//
// Allocated bytes are those beyond the base's, in relation to the body. Peak RSS
// is VmHWM of the sender, which only Linux tells.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == serveArg {
		serve(os.Stdin, os.Stdout)
		return
	}
	if len(os.Args) == 2 && os.Args[1] == sendArg {
		if err := send(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "uploads:", err)
			os.Exit(1)
		}
		return
	}
	if err := run(os.Args[1:], os.Stdout, os.Stderr); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "uploads:", err)
		os.Exit(1)
	}
}

// A plan is what to measure, and how.
type plan struct {
	cases  []uploads
	turns  int
	quick  bool
	before string // the program of the build before, or empty
}

func run(args []string, stdout, stderr io.Writer) error {
	f := flag.NewFlagSet("uploads", flag.ContinueOnError)
	f.SetOutput(stderr)
	p := plan{cases: cases()}
	f.IntVar(&p.turns, "turns", 15, "how often each sender is measured")
	f.BoolVar(&p.quick, "quick", false, "two short turns; the timings are worth nothing")
	against := f.String("against", "", "the build before: a `COMMIT`")
	only := f.String("only", "", "only the cases whose names contain one of these `NAMES`")
	if err := f.Parse(args); err != nil {
		return err
	}
	if p.quick {
		p.turns = 2
	}
	if p.cases = chosen(p.cases, *only); len(p.cases) == 0 {
		return fmt.Errorf("-only: no case's name contains any of %q", *only)
	}
	if *against != "" {
		dir, err := os.MkdirTemp("", "uploads")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		if p.before, err = buildAt(*against, dir); err != nil {
			return fmt.Errorf("-against: %w", err)
		}
	}
	results, err := p.measure(stderr)
	if err != nil {
		return err
	}
	write(stdout, p, results)
	return nil
}

func chosen(all []uploads, names string) (some []uploads) {
	for _, u := range all {
		for name := range strings.SplitSeq(names, ",") {
			if strings.Contains(u.name(), name) {
				some = append(some, u)
				break
			}
		}
	}
	return some
}

// buildAt builds this program, as it is here, with the library as it was at a commit.
func buildAt(commit, dir string) (program string, err error) {
	root := filepath.Join(dir, "before")
	here := filepath.Join(root, "internal", "lab", "uploads")
	program = filepath.Join(dir, "uploads-before")
	steps := [][]string{
		{"sh", "-c", `mkdir "$1" && git -C ../../.. archive "$0" | tar -x -C "$1"`, commit, root},
		{"sh", "-c", `rm -rf "$0" && mkdir -p "$0" && cp *.go go.mod go.sum "$0"`, here},
		{"go", "-C", here, "build", "-mod=mod", "-o", program, "."},
	}
	for _, step := range steps {
		if out, err := exec.Command(step[0], step[1:]...).CombinedOutput(); err != nil {
			return "", fmt.Errorf("%s: %w\n%s", step, err, out)
		}
	}
	return program, nil
}
