package storetest

import (
	"bytes"
	"context"
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
)

// Processes tests that many processes can share one refresh token in a store. The
// refresh token rotates, and the server revokes everything when one is sent twice. The
// test takes about a minute; with -short, a part of that.
//
// address makes a new, empty place for values, such as a directory or a database, and
// returns its address. open opens the place at an address. The processes run the test
// binary, and call the same test again. So each process runs the code before Processes,
// including TestMain: it must be fast and safe to repeat.
//
// Some processes are killed. If one is killed after the server has sent a new refresh
// token and before it is saved, the token is lost with any store. The test counts
// these, and logs in again.
func Processes(t *testing.T, address func(t *testing.T) string, open func(address string) tokensource.Store) {
	p, parent := begin(t, address, open)
	if !parent {
		return
	}
	t.Run("the first use of an empty store obtains one token", p.firstUse)
	t.Run("tokens that expire are rotated once for all", p.expiring)
	t.Run("tokens that are revoked are rotated once for all", p.revoked)
	t.Run("killed processes do not keep the others from going on", p.killing)
	t.Run("a login in one process heals all", p.login)
}

// begin returns the plan of the parent. In a worker, it works until the parent ends the
// worker.
func begin(t *testing.T, address func(t *testing.T) string, open func(address string) tokensource.Store) (p plan, parent bool) {
	if spec := os.Getenv(workerEnv); spec != "" {
		work(t, spec, open)
		return p, false
	}
	return plan{pattern(t.Name()), address, open}, true
}

// pattern returns the value of -test.run that runs one test.
func pattern(name string) string {
	parts := strings.Split(name, "/")
	for i, part := range parts {
		parts[i] = "^" + regexp.QuoteMeta(part) + "$"
	}
	return strings.Join(parts, "/")
}

// long returns n, or less in a short test.
func long(n, less int) int {
	if testing.Short() {
		return less
	}
	return n
}

const (
	hour = time.Hour

	// short is a lifetime of tokens that makes a fleet rotate them continuously.
	short = 150 * time.Millisecond
)

func (p plan) firstUse(t *testing.T) {
	f := p.start(t, long(64, 16), hour)
	f.work(f.workers...)
	f.awaitAnswers(1)
	f.finish()
	if n := len(f.front.rotations); n != 1 {
		t.Errorf("got %d rotations; want 1", n)
	}
}

// expiring uses tokens that expire in the view of clients, so that no request is
// refused.
func (p plan) expiring(t *testing.T) {
	f := p.start(t, 16, short)
	f.work(f.workers...)
	f.awaitRotations(long(200, 30))
	f.finish()
}

// revoked revokes a token once every goroutine has used it. A token that came because
// of a refusal, and is refused at its first use, is not replaced at once.
func (p plan) revoked(t *testing.T) {
	f, rotations := p.start(t, 16, hour), long(50, 10)
	f.work(f.workers...)
	for n := 1; n <= rotations; n++ {
		f.awaitRotations(n)
		f.awaitAnswersWithNewest(2) // one to use it, one to know that it was accepted
		f.srv.RevokeAccess()
	}
	f.awaitRotations(rotations + 1)
	f.awaitAnswersWithNewest(2)
	f.finish()
	if n := len(f.front.rotations); n != rotations+1 {
		t.Errorf("got %d rotations; want %d", n, rotations+1)
	}
}

// killing kills one worker after another. If the lock of a killed worker lasts for a
// while, it kills fewer.
func (p plan) killing(t *testing.T) {
	f, kills, windows := p.start(t, 16, short), 0, 0
	f.work(f.workers...)
	f.awaitAnswers(1)
	for begin := time.Now(); kills < long(40, 8) && time.Since(begin) < 30*time.Second; kills++ {
		at := moment(kills) % moments
		f.killAt(at)
		lost := f.goesOn()
		if lost {
			windows++
		}
		if !lost && at == beforeReply {
			t.Errorf("kill %d: got others that go on; want a refresh token that is lost for sure", kills)
		}
	}
	f.finish()
	t.Logf("%d workers killed; %d of these had a refresh token from the server that was not saved", kills, windows)
}

// killAt kills a worker at a moment and starts another.
func (f *fleet) killAt(at moment) {
	f.t.Helper()
	var victim int
	if at == anyTime {
		victim = f.workers[rand.IntN(len(f.workers))].id
		f.awaitRequests(rand.IntN(100))
	} else {
		trap := f.front.setTrap(at)
		f.await("a victim", func() bool { return len(trap.sprung) > 0 })
		victim = <-trap.sprung
	}
	if at == duringSave {
		pause(context.Background(), rand.N(10*time.Millisecond))
	}
	f.kill(f.workers[slices.IndexFunc(f.workers, func(p *process) bool { return p.id == victim })])
	f.work(f.add())
}

// goesOn waits until the others go on, and reports whether that took a login.
func (f *fleet) goesOn() (lost bool) {
	f.t.Helper()
	var refused []refusal
	rotations := 0
	f.await("the others to go on", func() bool {
		if rotations == 0 {
			rotations = len(f.front.rotations)
		}
		refused = f.refusals()
		return len(refused) > 0 || len(f.front.rotations) >= rotations+3
	})
	f.judging = false
	if len(refused) == 0 {
		return false
	}
	if !f.excused(refused[0]) {
		f.t.Fatalf("worker %d: its refresh token was refused, though no worker was killed between its rotation and the save", refused[0].worker)
	}
	f.lost[refused[0].spent] = true
	f.heal(refused[0].at, &tokensource.Token{RefreshToken: f.srv.RefreshToken()})
	return true
}

// heal logs in, in one worker, and waits until all have the new token.
func (f *fleet) heal(since time.Time, token *tokensource.Token) {
	f.t.Helper()
	data, err := tokensource.Marshal(token)
	if err != nil {
		f.t.Fatal(err)
	}
	f.tell(command{doSet, data}, f.workers[rand.IntN(len(f.workers))])
	f.awaitAnswers(2) // the first may already have been in progress
	f.outages = append(f.outages, outage{since, time.Now()})
}

func (p plan) login(t *testing.T) {
	f := p.start(t, 16, hour)
	f.work(f.workers...)
	f.awaitAnswersWithNewest(2)
	begin := time.Now()
	f.judging = true
	f.srv.RevokeAll()
	f.awaitFailures()
	var refused []refusal
	f.await("a refusal", func() bool {
		refused = f.refusals()
		return len(refused) > 0
	})
	if len(refused) != 1 {
		t.Fatalf("got %d refresh tokens refused; want 1 for all", len(refused))
	}
	f.lost[refused[0].spent], f.judging = true, false
	token := f.login()
	requests := f.srv.Counts().TokenRequests
	f.heal(begin, token)
	f.finish()
	if got := f.srv.Counts().TokenRequests; got != requests {
		t.Errorf("got %d token requests after the login; want 0", got-requests)
	}
}

// login returns the tokens of a login.
func (f *fleet) login() *tokensource.Token {
	f.t.Helper()
	f.logins++
	ask, _ := json.Marshal(map[string]string{"username": f.srv.Username, "password": f.srv.Password})
	resp, err := http.Post(f.srv.LoginURL(), "application/json", bytes.NewReader(ask))
	if err != nil {
		f.t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct{ AccessToken, RefreshToken string }
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		f.t.Fatal(err)
	}
	return &tokensource.Token{AccessToken: answer.AccessToken, RefreshToken: answer.RefreshToken, Expiry: time.Now().Add(hour)}
}
