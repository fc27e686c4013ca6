package sim_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

var defectsFlag = flag.Int("defects", 2, "how many of the defects to look for, drawn at random; less than zero: all")

// A defect is one rule of the library taken out.
type defect struct {
	name  string
	file  string
	edits []string // old and new text in turn
}

var defects = []defect{
	{"old is not compared", "tokensource/cache.go", []string{
		`l != nil && !l.token.same(old)`, `l != nil && old == nil`,
		`refused := c.lease.token.same(old)`, `refused := old != nil`}},
	{"the caller's old goes down to the source", "tokensource/cache.go", []string{
		`		c.start(ctx, cause, now)
`, `		if old != nil {
			c.lease.token = old
		}
		c.start(ctx, cause, now)
`}},
	{"a refresh belongs to its first caller", "tokensource/cacheflight.go", []string{
		`withoutTrace(context.WithoutCancel(ctx))`, `withoutTrace(ctx)`}},
	{"a waiter stays until the refresh ends", "tokensource/cache.go", []string{
		`	case <-ctx.Done():
	case <-again:`, `	case <-again:`}},
	{"a call begins though the last has not returned", "tokensource/cacheflight.go", []string{
		`c.calls.DoChan(`, `new(singleflight.Group).DoChan(`,
		`	"time"

`, `	"time"

	"golang.org/x/sync/singleflight"
`}},
	{"a late token is thrown away", "tokensource/cacheflight.go", []string{
		`k.err != nil && late && !needsLogin(k.err)`, `c.flight == nil`,
		`	late := c.flight != k.flight
`, ``}},
	{"a late invalid_grant is thrown away", "tokensource/cacheflight.go", []string{
		`late && !needsLogin(k.err)`, `late`}},
	{"a refresh in flight wins over Set", "tokensource/cachelogin.go", []string{
		`c.call.void = true`, `c.call.void = false`}},
	{"a logout does not end a refresh", "tokensource/cachelogin.go", []string{
		`	if c.call != nil {
		c.call.void`, `	if c.call != nil && l.token != nil {
		c.call.void`}},
	{"a logout keeps the token", "tokensource/cachelogin.go", []string{
		`	c.flight, c.lease = nil, l
`, `	if c.flight = nil; l.token != nil {
		c.lease = l
	}
`}},
	{"an expired token is served", "tokensource/lifetime.go", []string{
		`l.token.AccessToken != "" && !lapsed(now, l.until)`, `l.token.AccessToken != ""`}},
	{"failures are not spaced", "tokensource/cachepacing.go", []string{
		`r.until = now.Add(pause)`, `r.until = now.Add(pause / 1000)`}},
	{"Retry-After is not heeded", "tokensource/cachepacing.go", []string{
		`max(0, e.RetryAfter)`, `0*e.RetryAfter`}},
	{"the guard is in the Cache", "tokensource/cachepacing.go", []string{
		`	if fresh && c.lease.good(now) {`, `	if fresh && c.lease.good(now) && refused {
		c.rest(nil, 2*time.Second, 2*time.Second, began, now)
		return
	}
	if fresh && c.lease.good(now) {`}},
	{"there is no guard", "internal/guard/guard.go", []string{
		`clock.Passed(time.Now(), seen.at.Add(g.rows[k.origin].pause()))`, `time.Since(seen.at) >= 0`}},
	{"a row does not grow", "internal/guard/guard.go", []string{
		`row{r.length + 1, time.Now()}`, `row{1, time.Now()}`}},
	{"a row is for its own origin alone", "internal/guard/guard.go", []string{
		`len(g.rows) > 0 && seen.caused &&`, `g.rows[k.origin].length > 0 && seen.caused &&`,
		`	return min(shortestPause<<max(`, `	if r.length == 0 {
		return 0
	}
	return min(shortestPause<<max(`}},
	{"a token that was accepted is not excepted", "internal/guard/guard.go", []string{
		`	if g.proven[sighting{k, h}] {
		return true
	}
	seen`, `	seen`}},
	{"all paths of an origin are one", "transport/auth.go", []string{
		`req.Method, req.URL.Path)`, `req.Method)`}},
	{"a revoked token begins a row", "internal/guard/guard.go", []string{
		`		return // it has been revoked since it came
`, `		clear(g.proven)
`}},
	{"the guard withholds a token that is there", "internal/guard/asker.go", []string{
		`p.Peek(ctx, old.Token); token != nil &&`, `p.Peek(ctx, old.Token); token != nil && false &&`}},
	{"the guard is asked without a token", "internal/guard/asker.go", []string{
		`guarded := !peeks || p.Peek(ctx, nil) != nil`, `guarded := true`}},
	{"a refresh token that the reply leaves out is dropped", "tokensource/refreshtoken.go", []string{
		`err == nil && token.RefreshToken == ""`, `false`}},
	{"invalid_grant is a failure like others", "tokensource/refreshtoken.go", []string{
		`case refusal.Code != "invalid_grant":`, `case refusal.Code != "":`}},
	{"the store has no generations", "internal/lineage/lineage.go", []string{
		`newest := k.Generation > stored.Generation`, `newest := false`}},
	{"a login that is left over wins by its clock", "internal/lineage/lineage.go", []string{
		`const Tolerance = 10_000`, `const Tolerance = 0`}},
	{"an awaited login yields to a clock that is ahead", "internal/lineage/lineage.go", []string{
		`case k.Awaited, stored.Login`, `case stored.Login`}},
	{"a lost lock is a login saved", "tokensource/storedlock.go", []string{
		`	if refused {
		s.note(k, lineage.Refused)
	}
`, `	if refused {
		k.Outcome = lineage.Saved
		return k, nil
	}
`}},
	{"the lock is free before the save", "tokensource/storedlock.go", []string{
		`_, failed := s.save(t, next)`, `var failed error`}},
	{"a save is tried once", "tokensource/storedlock.go", []string{
		`}, func(err error) bool { return !errors.Is(err, ErrLocked) })`, `}, func(error) bool { return false })`}},
	{"a dead refresh token is not noted in the store", "tokensource/storedlock.go", []string{
		`if err != nil && !(needsLogin(err) && s.ends(base.token)) {`, `if err != nil {`}},
	{losses + "are not noticed", "tokensource/stored.go", []string{
		`s.newest.SavedAgain(now)`, `s.newest.SavedAgain(0)`}},
	{losses + "are forgotten at once", "internal/lineage/lineage.go", []string{
		`const Doubt = 45_000`, `const Doubt = 20_000`}},
	{losses + "are told by nobody", "tokensource/cache.go", []string{
		`!ok || !clock.Passed(now, c.again)`, `!ok || true || !clock.Passed(now, c.again)`}},
	{"a login that has died keeps its place", "tokensource/cache.go", []string{
		`dead := c.row != nil && needsLogin(c.row.err)`, `dead := false`}},
	{"a refresh token that lives makes room", "tokensource/cache.go", []string{
		`if !dead && c.lease.token != nil && c`, `if false && c`}},
	{"a good login without a refresh token makes room", "tokensource/cache.go", []string{
		`!dead && (told || !c.lease.login)`, `told || !dead`}},
	{"what is not saved makes room", "tokensource/cache.go", []string{
		`return !k.Pending()`, `return k != nil`}},
	{"room is not looked for again", "tokensource/keyed.go", []string{
		`const fullPause = time.Second`, `const fullPause = time.Hour`}},
	{"a refresh has the context of a request that is over", "tokensource/keyed.go", []string{
		`return e.cache.Token(b, old)`, `return e.cache.Token(ctx, old)`}},
	{"the budget is not given back", "internal/replay/recording.go", []string{
		`b.budget.Give(freed)`, `b.budget.Give(0)`, `l.budget.Give(l.bytes.Load())`, `l.budget.Give(0)`}},
	{"the first attempt is not held", "internal/replay/body.go", []string{
		`	b.held = !b.dropped && (b.end == nil || b.end == io.EOF)
	return b.held
`, `	return !b.dropped && (b.end == nil || b.end == io.EOF)
`}},
	{"the first attempt, cut off, looks whole", "internal/replay/attempt.go", []string{
		`return ErrCut`, `return io.EOF`}},
	{"a Read in progress at the cut is lost", "internal/replay/attempt.go", []string{
		`	case b.live != a: // cut off meanwhile: it is the next attempt's
		b.keep(p, true)
`, `	case b.live != a:
`}},
	{"two owners of a recording are one", "internal/replay/body.go", []string{
		`		a.body.owners++
`, ``}},
	{"the body is closed twice", "internal/replay/recording.go", []string{
		`	if b.closed.Swap(true) {
`, `	if b.closed.Swap(true) && b.src == nil {
`}},
	{"a released body is not closed", "internal/replay/body.go", []string{
		`	if closeNow {
`, `	if false && closeNow {
`}},
	{"the second attempt has no trailer", "internal/replay/attempt.go", []string{
		`	if a.ended && a.trailer != nil {`, `	if false {`}},
	{"a refusal of the second attempt causes a third", "transport/auth.go", []string{
		`a.send(req, second, next)
`, `a.send(req, second, next)
	if refused && req.Body == nil {
		if third, _, _ := a.asker.Another(req.Context(), a.Source, kindOf(req), next, a.authorization); third != nil {
			resp, refused, err = a.send(req, second, third)
		}
	}
`}},
	{"the token follows a redirect", "transport/origin.go", []string{
		`hop == nil || hop.URL == nil || hops == maxHops || origin.Of(hop.URL) != origin.Of(req.URL)`, `hop == nil || hops == maxHops`}},
	{"the refused response is waited for beyond the deadline", "internal/clock/clock.go", []string{
		`	case <-ctx.Done():
`, ``}},
	{"the connection of a refused upload is used again", "transport/attempt.go", []string{
		`	if next.Small {`, `	if true {`}},
	{"an empty refusal of an upload leaves its connection", "transport/attempt.go", []string{
		`		if pooled && resp.ProtoMajor < 3 {
`, `		if pooled && false {
`}},
	{"a refusal is lost with the upload", "internal/replay/attempt.go", []string{
		`	if early {
`, `	if early && false {
`}},
	{"a demanded nonce is shared before it is known to be good", "transport/dpop.go", []string{
		`		discard(d.base(), resp, attempt)
`, `		d.nonces.learn(req, resp, known, nonce)
		discard(d.base(), resp, attempt)
`}},
	{"a challenged request takes the nonce that others use", "transport/dpop.go", []string{
		`		nonce = cmp.Or(nonceOf(resp), nonce)`, `		_ = cmp.Or(nonce)
		d.nonces.learn(req, resp, known, nonce)
		nonce = d.nonces.of(req)`}},
	{"an API demands a nonce by 401 alone", "transport/dpop.go", []string{
		`strings.EqualFold(c.Scheme, "DPoP") && (e`, `resp.StatusCode == 401 && strings.EqualFold(c.Scheme, "DPoP") && (e`}},
	{"a refused response is not closed", "transport/attempt.go", []string{
		`			resp.Body.Close()
`, `			_ = resp
`}},
	{"the first nonce is kept for ever", "transport/dpop.go", []string{
		`	guard.Put(n.by, maxNonces, s, nonce)`, `	if n.by[s] != "" {
		return
	}
	guard.Put(n.by, maxNonces, s, nonce)`}},
	{"a nonce is for all servers", "transport/dpop.go", []string{
		`return server{origin.Of(req.URL), bound}`, `return server{api: bound && false}`}},
}

// losses begins the names of defects that TestAStoreThatLosesRecordsLogsNobodyOut finds.
const losses = "records that a store has lost "

var seedFailed = regexp.MustCompile(`seed (\d+)(, at the .* time)?: .*`)

// TestEachDefectIsFound shows that the simulation can fail, and that the seed
// that it prints fails again.
func TestEachDefectIsFound(t *testing.T) {
	for _, d := range defects {
		d.overlay(t) // fails where the library has changed
	}
	for n, i := range rand.Perm(len(defects)) {
		if n == *defectsFlag {
			break
		}
		d := defects[i]
		t.Run(d.name, func(t *testing.T) {
			program := filepath.Join(t.TempDir(), "sim.test")
			if out, err := exec.Command("go", "test", "-c", "-o", program, "-overlay", d.overlay(t), ".").CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			test := "TestSimulation"
			if strings.HasPrefix(d.name, losses) {
				test = "TestAStoreThatLosesRecordsLogsNobodyOut"
			}
			find(t, program, "-test.run", "^"+test+"$")
		})
	}
}

// find looks for a seed that fails, and fails again. Some do so only now and then, by the
// library's own chances.
func find(t *testing.T, program ...string) {
	from := uint64(1)
	for range 5 {
		text, seed := played(t, append(program, "-seeds", "40000", "-from", fmt.Sprint(from))...)
		if text == "" {
			t.Fatalf("40000 seeds from %d: it was not found", from)
		}
		if again, _ := played(t, append(program, "-seed", fmt.Sprint(seed))...); again != "" {
			t.Logf("%.200s\n%.200s", text, again)
			return
		}
		from = seed + 1
	}
	t.Fatalf("five seeds that failed did not fail again, the last before %d", from)
}

// played returns what the simulation says of the first seed that fails, and the seed.
func played(t *testing.T, program ...string) (text string, seed uint64) {
	out, err := exec.Command(program[0], append(program[1:], "-test.timeout", "5m")...).CombinedOutput()
	found := seedFailed.FindSubmatch(out)
	switch {
	case err == nil:
		return "", 0
	case found != nil:
		seed, err = strconv.ParseUint(string(found[1]), 10, 64)
	}
	if err != nil {
		t.Fatalf("%s: %v\n%s", program[1:], err, out)
	}
	return string(found[0]), seed
}

// overlay returns a file for go's flag -overlay that has the library with the defect.
func (d defect) overlay(t *testing.T) string {
	file, err := filepath.Abs(filepath.Join("..", "..", "..", filepath.FromSlash(d.file)))
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text := string(source)
	for i := 0; i < len(d.edits); i += 2 {
		if !strings.Contains(text, d.edits[i]) {
			t.Fatalf("%s no longer has %q", d.file, d.edits[i])
		}
		text = strings.ReplaceAll(text, d.edits[i], d.edits[i+1])
	}
	patched := write(t, filepath.Base(file), []byte(text))
	list, err := json.Marshal(map[string]any{"Replace": map[string]string{file: patched}})
	if err != nil {
		t.Fatal(err)
	}
	return write(t, "overlay.json", list)
}

func write(t *testing.T, name string, data []byte) string {
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
