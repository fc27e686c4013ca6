package tokensource_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/storetest"
)

// nilErrors are what a function returns that declares an error of its own type and
// does not set it, and errors that wrap the like.
func nilErrors() map[string]error {
	var (
		ofURL      *url.Error
		ofEndpoint *tokensource.EndpointError
		ofStore    *tokensource.StoreError
	)
	return map[string]error{
		"*url.Error":               ofURL,
		"*EndpointError":           ofEndpoint,
		"*StoreError":              ofStore,
		"wrapped *url.Error":       fmt.Errorf("wrapped: %w", error(ofURL)),
		"wrapped *StoreError":      fmt.Errorf("wrapped: %w", error(ofStore)),
		"joined to *url.Error":     errors.Join(unavailable, ofURL),
		"wrapped *EndpointError":   fmt.Errorf("wrapped: %w", error(ofEndpoint)),
		"an error that wraps none": (*timeError)(nil),
	}
}

func TestANilPointerForAnErrorIsAnErrorAndEndsNothing(t *testing.T) {
	for name, bad := range nilErrors() {
		source := tokensource.Func(func(context.Context, *Token) (*Token, error) { return &Token{AccessToken: "a"}, bad })
		for where, s := range map[string]tokensource.Source{
			"Cache":  &tokensource.Cache{Source: source},
			"Stored": newProcess(new(storetest.Memory), source),
		} {
			synctest.Test(t, func(t *testing.T) {
				got, err := s.Token(t.Context(), nil)
				if got != nil || err == nil || !strings.Contains(err.Error(), "got a nil pointer for an error") {
					t.Errorf("%s of %s: got %v and %v, want an error that tells of a nil pointer", name, where, got, err)
				}
			})
		}
	}
}

func TestANilPointerForAnErrorOfAStoreIsAnError(t *testing.T) {
	for name, bad := range nilErrors() {
		s := &tokensource.Stored{Source: numbered(0, 0), Store: failingStore{bad}, Key: "key"}
		if got, err := s.Token(t.Context(), nil); !isStoreError(err, "load") || !strings.Contains(err.Error(), "got a nil pointer for an error") {
			t.Errorf("%s: got %v and %v, want a StoreError that tells of a nil pointer", name, got, err)
		}
	}
}

func TestAPanicInOnRefreshIsLoggedAndEndsNothing(t *testing.T) {
	var logged bytes.Buffer
	defer log.SetOutput(log.Writer())
	log.SetOutput(&logged)
	synctest.Test(t, func(t *testing.T) {
		c := &tokensource.Cache{
			Source:    tokensource.Static(&Token{AccessToken: "a"}),
			OnRefresh: func(tokensource.Refresh) { panic("boom") },
		}
		got, err := c.Token(t.Context(), nil)
		wantToken(t, got, err, "a")
		synctest.Wait()
	})
	if s := logged.String(); !strings.Contains(s, "OnRefresh panicked: boom") || !strings.Contains(s, "errors_test.go") {
		t.Errorf("logged %q, want the panic and its stack", s)
	}
}

func TestARefreshIsNotLogged(t *testing.T) {
	var logged bytes.Buffer
	defer log.SetOutput(log.Writer())
	log.SetOutput(&logged)
	synctest.Test(t, func(t *testing.T) {
		for _, told := range []func(tokensource.Refresh){nil, func(tokensource.Refresh) {}} {
			c := &tokensource.Cache{Source: tokensource.Static(&Token{AccessToken: "a"}), OnRefresh: told}
			c.Token(t.Context(), nil)
			synctest.Wait()
		}
	})
	if logged.Len() > 0 {
		t.Errorf("logged %q, want nothing", logged.String())
	}
}
