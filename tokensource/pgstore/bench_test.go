//go:build unix

package pgstore_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/tokentripper/tokentripper/internal/lab/stores"
	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/pgstore"
)

// counting counts the statements of a pool.
type counting struct{ statements atomic.Int64 }

func (c *counting) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	c.statements.Add(1)
	return ctx
}

func (c *counting) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// counted returns a store with so many connections, and what counts its statements.
func counted(t testing.TB, s *server, conns int32) (*pgstore.Store, *counting) {
	t.Helper()
	config, err := pgxpool.ParseConfig(s.address())
	if err != nil {
		t.Fatal(err)
	}
	c := new(counting)
	config.MaxConns, config.ConnConfig.Tracer = conns, c
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return &pgstore.Store{Pool: pool}, c
}

func stored(store tokensource.Store, source tokensource.Func) *tokensource.Stored {
	return &tokensource.Stored{Source: source, Store: store, Key: "k"}
}

func token(n int) *tokensource.Token {
	return &tokensource.Token{AccessToken: fmt.Sprint("access-", n), RefreshToken: fmt.Sprint("refresh-", n), Expiry: time.Now().Add(time.Hour)}
}

func noSource(context.Context, *tokensource.Token) (*tokensource.Token, error) {
	return nil, tokensource.ErrReauthenticate
}

func TestToAdoptATokenIsOneStatement(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	one := stored(s.store(), noSource)
	store, c := counted(t, s, 2)
	other := stored(store, noSource)
	for n := range 3 {
		if err := one.Set(stores.Background(t), token(n)); err != nil {
			t.Fatal(err)
		}
		before := c.statements.Load()
		got, err := other.Token(stores.Background(t), token(n-1))
		if err != nil || got.AccessToken != token(n).AccessToken {
			t.Errorf("got token %v, error %v; want token %d", got, err, n)
		}
		if used := c.statements.Load() - before; used != 1 {
			t.Errorf("got %d statements; want 1", used)
		}
	}
}

func BenchmarkAdoption(b *testing.B) {
	s := newServer(b)
	stores.CompareAdoption(b, s.store(), s.store())
}

// BenchmarkWaiting has 1,000 processes wait for the exchange of one.
func BenchmarkWaiting(b *testing.B) {
	for _, exchange := range []time.Duration{time.Second, 9 * time.Second} {
		b.Run(exchange.String(), func(b *testing.B) {
			for b.Loop() {
				waiting(b, exchange)
			}
		})
	}
}

func waiting(b *testing.B, exchange time.Duration) {
	const processes = 1000
	s := newServer(b)
	store, c := counted(b, s, 50)
	begun := make(chan struct{})
	slow := stored(store, func(context.Context, *tokensource.Token) (*tokensource.Token, error) {
		close(begun)
		<-time.After(exchange)
		return token(1), nil
	})
	var all sync.WaitGroup
	all.Go(func() {
		if _, err := slow.Token(b.Context(), nil); err != nil {
			b.Error(err)
		}
	})
	<-begun
	began, before := time.Now(), c.statements.Load()
	for range processes {
		p := stored(store, noSource)
		all.Go(func() {
			if _, err := p.Token(b.Context(), nil); err != nil {
				b.Error(err)
			}
		})
	}
	all.Wait()
	each := float64(c.statements.Load()-before) / processes
	b.ReportMetric(each/time.Since(began).Seconds(), "statements/s/process")
	b.ReportMetric(each, "statements/process")
}
