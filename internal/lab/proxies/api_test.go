package proxies_test

import (
	"crypto/sha256"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
)

// startAPI starts what proxies forward to, and returns its address. It does what
// the headers of an upload say.
func startAPI(t *testing.T) string {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.Header.Get("Authorization"), "stale") {
			refuse(w, r)
			return
		}
		accept(t, w, r)
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.Start()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// refuse answers 401 when so much of the body has come, or all of it.
func refuse(w http.ResponseWriter, r *http.Request) {
	if n, err := strconv.ParseInt(r.Header.Get("Refuse-After"), 10, 64); err == nil {
		io.CopyN(io.Discard, r.Body, n)
	} else {
		io.Copy(io.Discard, r.Body)
	}
	w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
	w.WriteHeader(http.StatusUnauthorized)
	n, _ := strconv.Atoi(r.Header.Get("Refusal-Length"))
	io.WriteString(w, strings.Repeat("x", n))
}

// accept answers with the sum of what came. What came to its end must be whole.
func accept(t *testing.T, w http.ResponseWriter, r *http.Request) {
	hash := sha256.New()
	n, err := io.Copy(hash, r.Body)
	if err != nil {
		return
	}
	sum := fmt.Sprintf("%x", hash.Sum(nil))
	if want := r.Header.Get("Sum"); want != "" && sum != want {
		t.Errorf("the API took %d bytes with the sum %s for a whole upload, want %s", n, sum, want)
	}
	io.WriteString(w, sum)
}
