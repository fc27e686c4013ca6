package tokensource_test

import (
	"context"
	"errors"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
)

func TestMetadataAreFetchedOnceAnHourForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const issuer, at = "https://as.example", "https://as.example/.well-known/oauth-authorization-server"
		p := newPages()
		p.all[at] = func(*http.Request) (int, string) {
			time.Sleep(time.Second)
			return 200, metadataOf(issuer, issuer+"/token")
		}
		p.set(issuer+"/token", 200, granted)
		source := p.client(&tokensource.Issuer{URL: issuer})
		first, stop := context.WithTimeout(t.Context(), time.Millisecond)
		defer stop()
		var waiting sync.WaitGroup
		waiting.Go(func() {
			if _, err := source.Token(first, nil); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v, want the end of the first caller's patience", err)
			}
		})
		for range 20 {
			waiting.Go(func() {
				if _, err := source.Token(t.Context(), nil); err != nil {
					t.Error(err)
				}
			})
		}
		waiting.Wait()
		for range 119 {
			time.Sleep(time.Minute)
			source.Token(t.Context(), nil)
		}
		if n := p.asked(at); n != 2 {
			t.Errorf("the metadata were fetched %d times in 2 hours, want 2", n)
		}
	})
}

// found is a client that has a token of the endpoint.
func found(t *testing.T, issuer, endpoint string) (*pages, *tokensource.ClientCredentials) {
	p := newPages()
	p.set(issuer+"/.well-known/oauth-authorization-server", 200, metadataOf(issuer, endpoint))
	p.set(endpoint, 200, granted)
	source := p.client(&tokensource.Issuer{URL: issuer})
	source.Token(t.Context(), nil)
	return p, source
}

func TestATokenEndpointThatIsGoneIsLookedForAgain(t *testing.T) {
	for _, status := range []int{404, 410, 0} {
		synctest.Test(t, func(t *testing.T) {
			const issuer, at = "https://as.example", "https://as.example/.well-known/oauth-authorization-server"
			p, source := found(t, issuer, issuer+"/old")
			p.set(issuer+"/old", status, "")
			p.set(issuer+"/new", 200, granted)
			p.set(at, 200, metadataOf(issuer, issuer+"/new"))
			for range 60 {
				if _, err := source.Token(t.Context(), nil); err == nil {
					t.Fatal("got a token, want an error: the endpoint is gone")
				}
				time.Sleep(time.Second)
			}
			if _, err := source.Token(t.Context(), nil); err != nil || p.asked(at) != 2 {
				t.Errorf("%d: got %v, and the metadata were fetched %d times, want a token and 2", status, err, p.asked(at))
			}
		})
	}
}

func TestMetadataThatCannotBeFetchedAgainStayInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const issuer, at = "https://as.example", "https://as.example/.well-known/oauth-authorization-server"
		p, source := found(t, issuer, issuer+"/token")
		p.set(at, 503, "")
		for range 600 {
			time.Sleep(time.Second * 12)
			if _, err := source.Token(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
		}
		if n := p.asked(at); n < 50 || n > 62 {
			t.Errorf("the metadata were asked for %d times in the second hour, want about once a minute", n)
		}
	})
}

func TestMetadataThatDoNotComeAreWaitedForTenSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPages()
		p.all["https://as.example/.well-known/oauth-authorization-server"] = func(req *http.Request) (int, string) {
			<-req.Context().Done()
			return 0, ""
		}
		began := time.Now()
		_, err := p.client(&tokensource.Issuer{URL: "https://as.example"}).Token(t.Context(), nil)
		if took := time.Since(began); err == nil || took != 10*time.Second {
			t.Errorf("got %v after %v, want an error after 10 s", err, took)
		}
	})
}

// Nobody could recover what happens in a goroutine of the Issuer's.
func TestAClientThatPanicsOrExitsWhileMetadataAreFetchedIsAnError(t *testing.T) {
	for name, end := range map[string]func(){"panicked": func() { panic("no route") }, "runtime.Goexit": runtime.Goexit} {
		const issuer, at = "https://as.example", "https://as.example/.well-known/oauth-authorization-server"
		p := newPages()
		p.set(issuer+"/token", 200, granted)
		p.all[at] = func(*http.Request) (int, string) { end(); return 0, "" }
		source := p.client(&tokensource.Issuer{URL: issuer})
		if _, err := source.Token(t.Context(), nil); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %v, want an error", name, err)
		}
		p.set(at, 200, metadataOf(issuer, issuer+"/token"))
		if _, err := source.Token(t.Context(), nil); err != nil {
			t.Errorf("%s: got %v the next time, want a token", name, err)
		}
	}
}
