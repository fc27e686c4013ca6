package fleet_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
)

// A plan is what a simulation is about.
type plan struct {
	replicas int
	life     time.Duration // of a token
	length   time.Duration // of the simulation
	pause    time.Duration // between two requests of a replica, on average
	policy   policy
	outage   outage
	dense    bool // make the requests that can do nothing, too
}

// An outage of the token endpoint. The zero value is none.
type outage struct {
	from, length time.Duration
	answer       func(context.Context) error // what token requests get meanwhile
}

func (o outage) end() time.Duration { return o.from + o.length }

// What an outage may look like.
var (
	errDown = errors.New("connection refused")

	refused = func(context.Context) error { return errDown }

	retryAfter = func(context.Context) error {
		return &tokensource.EndpointError{StatusCode: 503, RetryAfter: time.Minute}
	}

	silent = func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	}
)

const (
	step    = 20 * time.Millisecond // by which the clock of the requests moves
	latency = 50 * time.Millisecond // of the token endpoint
)

// A fleet is the replicas of a service. They start within one second, as after a
// deployment. Each has a Source of its own, in general a Cache, and asks it for
// a token at random moments, as the requests of its users come.
type fleet struct {
	plan
	members []replica
	start   time.Time
	due     []*replica // whose next request is in each step, as a ring
	issued  atomic.Int64
	seconds []atomic.Int32        // token requests in each second
	ages    [ageBins]atomic.Int32 // of the tokens, when they were replaced
	without int                   // replicas without a good token at the end of the outage

	mu       sync.Mutex    // guards what follows
	answered *replica      // those whose request has been answered
	served   time.Duration // when the last request was good that followed a failed one
}

// A replica is one process of the fleet.
type replica struct {
	source tokensource.Source
	asked  atomic.Int64 // when the token was asked for, since the start
	quiet  atomic.Int64 // until when a request can do nothing but take the token
	until  atomic.Int64 // until when a request need not wait

	failing bool
	next    *replica // in a list of those that are due, or have been answered
}

// simulate runs p in a bubble of its own.
func simulate(t *testing.T, p plan) *record {
	t.Helper()
	f := &fleet{
		plan:    p,
		members: make([]replica, p.replicas),
		due:     make([]*replica, (p.life+40*p.pause)/step),
		seconds: make([]atomic.Int32, (p.length+time.Minute)/time.Second),
	}
	synctest.Test(t, f.run)
	return f.record()
}

func (f *fleet) run(*testing.T) {
	f.start = time.Now()
	for i := range f.members {
		r := &f.members[i]
		r.source = f.policy.over(func(ctx context.Context, _ *tokensource.Token) (*tokensource.Token, error) {
			return f.token(ctx, r)
		})
		f.schedule(r, rand.N(time.Second))
	}
	for now := time.Duration(0); now < f.length; now += step {
		if f.outage.length > 0 && now == f.outage.end() {
			f.countWithout(now)
		}
		f.makeRequests(now)
		time.Sleep(step)
	}
	time.Sleep(time.Minute) // for what is under way
}

// makeRequests makes those that are due.
func (f *fleet) makeRequests(now time.Duration) {
	for r := range list(f.takeAnswered()) {
		f.scheduleNext(r, now)
	}
	slot := &f.due[int(now/step)%len(f.due)]
	due := *slot
	*slot = nil
	for r := range list(due) {
		if now < time.Duration(r.until.Load()) {
			f.request(r)
			f.scheduleNext(r, now)
			continue
		}
		go func() { // for it may wait
			f.request(r)
			f.mu.Lock()
			defer f.mu.Unlock()
			r.next, f.answered = f.answered, r
		}()
	}
}

// scheduleNext draws when r's next request is. Requests come at random at a
// constant rate, so after any moment the wait for the next one has the same
// distribution. After the quiet time, too: to leave out the requests that can do
// nothing changes none of the others.
func (f *fleet) scheduleNext(r *replica, now time.Duration) {
	if !f.dense {
		now = max(now, time.Duration(r.quiet.Load()))
	}
	f.schedule(r, now+step+time.Duration(rand.ExpFloat64()*float64(f.pause)))
}

func (f *fleet) schedule(r *replica, at time.Duration) {
	slot := &f.due[int(at/step)%len(f.due)]
	r.next, *slot = *slot, r
}

func (f *fleet) takeAnswered() *replica {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.answered
	f.answered = nil
	return r
}

// list goes through a list whose members may be put on another one meanwhile.
func list(r *replica) func(yield func(*replica) bool) {
	return func(yield func(*replica) bool) {
		for r != nil {
			next := r.next
			if !yield(r) {
				return
			}
			r = next
		}
	}
}

// request is what a replica does for each request of its users.
func (f *fleet) request(r *replica) {
	_, err := r.source.Token(context.Background(), nil)
	if err == nil && r.failing {
		f.mu.Lock()
		f.served = time.Since(f.start)
		f.mu.Unlock()
	}
	r.failing = err != nil
}

// token is the token endpoint.
func (f *fleet) token(ctx context.Context, r *replica) (*tokensource.Token, error) {
	now := time.Since(f.start)
	f.seconds[now/time.Second].Add(1)
	if f.outage.from <= now && now < f.outage.end() {
		return nil, f.outage.answer(ctx)
	}
	if asked := time.Duration(r.asked.Swap(int64(now))); asked > 0 {
		f.ages[min(ageBins*(now-asked)/(f.life*3/2), ageBins-1)].Add(1)
	}
	time.Sleep(latency)
	token := &tokensource.Token{
		AccessToken: strconv.FormatInt(f.issued.Add(1), 10),
		Expiry:      f.start.Add(now + f.life),
	}
	quiet, until := f.life/2, f.life // the Cache's own window begins later
	if f.policy.draw != nil {
		quiet = f.policy.draw(f.life)
		token.RefreshAt = f.start.Add(now + quiet)
	}
	if f.policy.forgetful {
		until = quiet
	}
	r.quiet.Store(int64(now + quiet))
	r.until.Store(int64(now + until))
	return token, nil
}

func (f *fleet) countWithout(now time.Duration) {
	for i := range f.members {
		if now >= time.Duration(f.members[i].until.Load()) {
			f.without++
		}
	}
}
