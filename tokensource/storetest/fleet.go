package storetest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/tokentest"
)

// A plan is what all scenarios of one test have in common.
type plan struct {
	run     string // the value of -test.run that selects the test
	address func(*testing.T) string
	open    func(address string) tokensource.Store
}

// A fleet is the workers that share a store, as their parent sees them. Only the
// goroutine of the test uses it.
type fleet struct {
	t       *testing.T
	run     string
	store   tokensource.Store
	srv     *tokentest.Server
	front   *front
	job     job // what all jobs have in common
	workers []*process
	killed  map[int]bool
	judging bool            // the scenario judges refusals itself; at other times there must be none
	lost    map[string]bool // refresh tokens whose refusal was unavoidable
	outages []outage
	logins  int

	disturbed bool // requests may fail because the store is unavailable
}

// An outage is the time from the death of a family of refresh tokens until all workers
// have the token of a new login. Requests may fail during this time.
type outage struct{ from, to time.Time }

// A process is a running worker.
type process struct {
	id     int
	cmd    *exec.Cmd
	in     *json.Encoder
	close  func() error // closes in
	stderr bytes.Buffer
	ended  chan struct{} // closed when it is dead and all its output is noted

	// Guarded by front.mu.
	done    []event // commands that it has carried out
	leaving bool    // its end is expected
}

// goroutines is how many goroutines of each worker send requests.
const goroutines = 2

// patienceWithWorkers bounds each step of a scenario.
const patienceWithWorkers = time.Minute

// start starts workers over an empty store. The server says that their tokens live for
// life.
func (p plan) start(t *testing.T, workers int, life time.Duration) *fleet {
	t.Helper()
	srv := tokentest.NewServer(t)
	front := newFront(srv, life)
	t.Cleanup(front.http.Close)
	address := p.address(t)
	f := &fleet{t: t, run: p.run, store: p.open(address), srv: srv, front: front}
	f.killed, f.lost = make(map[int]bool), make(map[string]bool)
	f.job = job{
		Goroutines: goroutines, Address: address, ClientID: srv.ClientID, RefreshToken: srv.RefreshToken(),
		TokenURL: front.http.URL + "/token", APIURL: front.http.URL + "/api",
	}
	t.Cleanup(func() {
		for _, p := range f.workers {
			f.end(p, p.cmd.Process.Kill)
			<-p.ended
		}
	})
	for range workers {
		f.add()
	}
	return f
}

// add starts a worker that does not send requests yet.
func (f *fleet) add() *process {
	f.t.Helper()
	f.job.Worker++
	spec, err := json.Marshal(f.job)
	if err != nil {
		f.t.Fatal(err)
	}
	p := &process{id: f.job.Worker, ended: make(chan struct{})}
	p.cmd = exec.Command(os.Args[0], "-test.run="+f.run, "-test.timeout=10m")
	// The race detector would delay the end of each worker by a second.
	p.cmd.Env = append(os.Environ(), workerEnv+"="+string(spec), "GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	p.cmd.Stderr = &p.stderr
	in, err := p.cmd.StdinPipe()
	if err != nil {
		f.t.Fatal(err)
	}
	p.in, p.close = json.NewEncoder(in), in.Close
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		f.t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	f.workers = append(f.workers, p)
	go f.listen(p, out)
	return p
}

// listen notes what a worker writes, until the worker is dead.
func (f *fleet) listen(p *process, out io.Reader) {
	defer close(p.ended)
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e event
		if !bytes.HasPrefix(lines.Bytes(), []byte("{")) || json.Unmarshal(lines.Bytes(), &e) != nil {
			continue // said by package testing
		}
		f.front.note(func() {
			switch {
			case e.Done != "":
				p.done = append(p.done, e)
			case e.Failed != nil:
				f.front.failures = append(f.front.failures, *e.Failed)
			case e.Saved != "":
				f.front.saved[e.Saved] = true
				if trap := f.front.spring(afterSave); trap != nil {
					trap.sprung <- p.id
				}
			}
		})
	}
	err := p.cmd.Wait()
	f.front.note(func() {
		if !p.leaving {
			f.front.errors = append(f.front.errors, fmt.Sprintf("worker %d has ended: %v\n%s", p.id, err, &p.stderr))
		}
	})
}

// await waits until the notes meet a condition.
func (f *fleet) await(what string, met func() bool) {
	f.t.Helper()
	timer := time.NewTimer(patienceWithWorkers)
	defer timer.Stop()
	for {
		f.front.mu.Lock()
		ok, wrong, changed := met(), f.front.errors, f.front.changed
		if refused := f.refusals(); len(refused) > 0 && !f.judging {
			wrong = append(wrong, fmt.Sprintf("a refresh token of worker %d was refused", refused[0].worker))
		}
		f.front.mu.Unlock()
		if len(wrong) > 0 {
			f.t.Fatalf("waiting for %s: %s\n%s", what, wrong, f.front)
		}
		if ok {
			return
		}
		select {
		case <-changed:
		case <-timer.C:
			f.t.Fatalf("waiting for %s: not after %v\n%s", what, patienceWithWorkers, f.front)
		}
	}
}

// names returns the names of the goroutines that send requests.
func (f *fleet) names() (names []string) {
	for _, p := range f.workers {
		for i := range f.job.Goroutines {
			names = append(names, fmt.Sprintf("%d/%d", p.id, i))
		}
	}
	return names
}

func (f *fleet) awaitRotations(n int) {
	f.t.Helper()
	f.await(fmt.Sprint(n, " rotations"), func() bool { return len(f.front.rotations) >= n })
}

// awaitAnswers waits until each goroutine has received n more answers.
func (f *fleet) awaitAnswers(n int) {
	f.t.Helper()
	var before map[string]answered
	f.await(fmt.Sprint(n, " more answers for each"), func() bool {
		if before == nil {
			before = maps.Clone(f.front.answered)
		}
		return !slices.ContainsFunc(f.names(), func(name string) bool {
			return f.front.answered[name].requests < before[name].requests+n
		})
	})
}

// awaitAnswersWithNewest waits until each goroutine has received n answers with the
// newest token.
func (f *fleet) awaitAnswersWithNewest(n int) {
	f.t.Helper()
	f.await(fmt.Sprint(n, " answers for each with the newest token"), func() bool {
		return !slices.ContainsFunc(f.names(), func(name string) bool {
			a := f.front.answered[name]
			return a.token != f.front.newest || a.newest < n
		})
	})
}

// awaitRequests waits until n more requests are answered.
func (f *fleet) awaitRequests(n int) {
	f.t.Helper()
	before := -1
	f.await(fmt.Sprint(n, " more requests"), func() bool {
		total := 0
		for _, a := range f.front.answered {
			total += a.requests
		}
		if before < 0 {
			before = total
		}
		return total >= before+n
	})
}

// awaitFailures waits until each goroutine has had a failed request.
func (f *fleet) awaitFailures() {
	f.t.Helper()
	f.await("a failure of each", func() bool {
		failed := make(map[string]bool)
		for _, failure := range f.front.failures {
			failed[failure.Goroutine] = true
		}
		return len(failed) == len(f.names())
	})
}

// tell sends workers a command, and waits until all have carried it out.
func (f *fleet) tell(c command, to ...*process) {
	f.t.Helper()
	before := make(map[*process]int)
	f.await("the start of all", func() bool {
		for _, p := range to {
			before[p] = len(p.done)
		}
		return !slices.ContainsFunc(to, func(p *process) bool { return before[p] == 0 })
	})
	for _, p := range to {
		if err := p.in.Encode(c); err != nil {
			f.t.Fatalf("worker %d does not listen: %v", p.id, err)
		}
	}
	f.await("all to obey "+c.Do, func() bool {
		return !slices.ContainsFunc(to, func(p *process) bool { return len(p.done) == before[p] })
	})
	for _, p := range to {
		if e := p.done[len(p.done)-1]; e.Error != "" {
			f.t.Errorf("worker %d: %s: %s", p.id, c.Do, e.Error)
		}
	}
}

// work starts workers that send requests until the end.
func (f *fleet) work(to ...*process) {
	f.t.Helper()
	f.tell(command{Do: doWork}, to...)
}

// kill kills a worker, and waits until it is dead. Its refresh token may be lost.
func (f *fleet) kill(p *process) {
	f.killed[p.id], f.judging = true, true
	f.end(p, p.cmd.Process.Kill)
	<-p.ended
	f.workers = slices.DeleteFunc(f.workers, func(q *process) bool { return p == q })
}

func (f *fleet) end(p *process, how func() error) {
	f.front.note(func() { p.leaving = true })
	how()
}

// finish lets the workers end while none can have the lock: a worker that ends during
// an exchange would count as killed.
func (f *fleet) finish() {
	f.t.Helper()
	f.awaitAnswers(1) // no worker is locked out
	f.tell(command{Do: doStop}, f.workers...)
	ctx, cancel := context.WithTimeout(context.Background(), patienceWithWorkers)
	defer cancel()
	for {
		err := f.store.Update(ctx, f.key(), func([]byte, func([]byte) error) error {
			for _, p := range f.workers {
				f.end(p, p.close)
				<-p.ended
			}
			return nil
		})
		if err == nil {
			break
		}
		if !errors.Is(err, tokensource.ErrLocked) {
			f.t.Fatalf("Update: got error %v", err)
		}
		pause(ctx, apiLatency)
	}
	f.workers = nil
	f.front.http.Close()
	f.verify()
}

// key returns the store's key, which Stored reports if a load fails.
func (f *fleet) key() string {
	_, err := f.job.stored(&faults{Store: f.store, load: failures(1)}).Token(context.Background(), nil)
	if failure, ok := errors.AsType[*tokensource.StoreError](err); ok {
		return failure.Key
	}
	f.t.Fatalf("got error %v; want one of the store", err)
	return ""
}
