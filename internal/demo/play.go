package main

import (
	"context"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/tokentest"
)

// demonstrate runs the demo on servers of its own.
func demonstrate(ctx context.Context, o *options, stderr io.Writer) (summary, error) {
	srv := tokentest.Start()
	defer srv.Close()
	base := newTransport(o.clients)
	defer base.CloseIdleConnections()
	r := newRecord()
	cache := &tokensource.Cache{Source: prompt(refreshTokenOf(srv, counter{base, r})), OnRefresh: r.refreshed}
	defer cache.Forget(context.WithoutCancel(ctx)) // ends a refresh that is under way
	srv.SetLatency(80 * time.Millisecond)
	srv.SetLifetime(life, 0)
	p := &play{srv: srv, record: r}
	d := newDriver(r, cache, base, o)
	d.url, d.uploads, d.more = srv.APIURL(), true, p.more
	d.pause = func() time.Duration { return time.Duration(20+rand.IntN(160)) * time.Millisecond }

	ctx, end := context.WithTimeout(ctx, o.duration)
	defer end()
	done := show(stderr, r, func() float64 { return r.now().Seconds() / o.duration.Seconds() })
	var director sync.WaitGroup
	director.Go(func() { p.run(ctx) })
	d.drive(ctx)
	director.Wait()
	done()
	s := r.close()
	s.what, s.clients = "uploads", o.clients
	return s, nil
}

func refreshTokenOf(srv *tokentest.Server, client http.RoundTripper) *tokensource.RefreshToken {
	return &tokensource.RefreshToken{
		Endpoint: tokensource.Endpoint{
			URL:          srv.TokenURL(),
			ClientID:     srv.ClientID,
			ClientSecret: srv.ClientSecret,
			Client:       &http.Client{Transport: client},
		},
		RefreshToken: srv.RefreshToken(),
	}
}

// prompt asks for the early refresh after a third of a token's life, as a server
// does with refresh_in. The Cache's own moment is random, and the play
// wants the outage to meet an early refresh each time.
func prompt(source tokensource.Source) tokensource.Source {
	return tokensource.Func(func(ctx context.Context, old *tokensource.Token) (*tokensource.Token, error) {
		token, err := source.Token(ctx, old)
		if err != nil {
			return nil, err
		}
		soon := *token
		soon.RefreshAt = time.Now().Add(time.Until(token.Expiry) / 3)
		return &soon, nil
	})
}

// A play is what happens to the tokens while the clients send.
type play struct {
	srv    *tokentest.Server
	record *record
	gate   sync.RWMutex  // held while the clients rest
	over   time.Duration // when the last mishap was
}

// The lives of tokens: most outlast an outage after a third of them. The
// server tells whole seconds.
const (
	life      = 4 * time.Second
	shortLife = time.Second
)

// more lets a client send, but not while all rest.
func (p *play) more() bool {
	p.gate.RLock()
	defer p.gate.RUnlock()
	return true
}

// run plays until ctx ends.
func (p *play) run(ctx context.Context) {
	p.revoke(ctx, life)
	p.outage(ctx, 1200*time.Millisecond)
	p.revoke(ctx, shortLife)
	p.rest(ctx, shortLife+300*time.Millisecond)
	p.revoke(ctx, life)
	<-ctx.Done()
}

// settle waits until a token that came after the last mishap is as old as age; false
// if ctx ends first. Mishaps keep a distance from refreshes, for a request that two
// tokens are revoked under is refused twice, and one replay can't cure that.
func (p *play) settle(ctx context.Context, age time.Duration) bool {
	for {
		last := p.record.lastRefresh()
		if last > p.over && p.record.now()-last >= age {
			return true
		}
		if !wait(ctx, 10*time.Millisecond) {
			return false
		}
	}
}

// note records a mishap that began at from and is over.
func (p *play) note(k kind, from time.Duration) {
	p.record.mishap(k, from)
	p.over = p.record.now()
}

// revoke ends all access tokens. The next ones live as long as is said.
func (p *play) revoke(ctx context.Context, life time.Duration) {
	if !p.settle(ctx, 700*time.Millisecond) {
		return
	}
	p.srv.SetLifetime(life, 0)
	from := p.record.now()
	p.srv.RevokeAccess()
	p.note(revocation, from)
}

// outage makes the token endpoint fail while the token is still good, but
// about to be refreshed.
func (p *play) outage(ctx context.Context, d time.Duration) {
	if !p.settle(ctx, life/4) {
		return
	}
	from := p.record.now()
	p.srv.Fail(tokentest.Failure{Times: -1})
	wait(ctx, d)
	p.srv.ClearFailures()
	p.note(outage, from)
}

// rest stops all clients, for long enough that a short token expires.
func (p *play) rest(ctx context.Context, d time.Duration) {
	if !p.settle(ctx, 0) || !wait(ctx, time.Second) {
		return
	}
	p.gate.Lock()
	defer p.gate.Unlock()
	from := p.record.now()
	wait(ctx, d)
	p.srv.SetLifetime(life, 0)
	p.note(rest, from)
}
