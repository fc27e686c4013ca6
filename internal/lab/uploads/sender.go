package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
	"golang.org/x/oauth2"
)

// sendArg is the argument of a process that is a sender.
const sendArg = "send"

// A task is what a sender is told first. Then it is told numbers of uploads, and
// answers each with a [turn].
type task struct {
	Uploads uploads
	To      addresses
	Kind    string
}

// Kinds of senders.
const (
	kindBase   = "base"
	kindAuth   = "auth"
	kindBefore = "before" // an Auth of another build
	kindOAuth2 = "x/oauth2"
)

// A turn is what so many uploads took.
type turn struct {
	Seconds   float64
	Allocated uint64 // bytes
	Cycles    uint32 // of the collector
	Peak      int64  // resident bytes, since the process began
}

// send is all that a sender does.
func send(in io.Reader, out io.Writer) error {
	from, to := json.NewDecoder(in), json.NewEncoder(out)
	var t task
	if err := from.Decode(&t); err != nil {
		return err
	}
	s := newSender(t)
	for {
		var n int
		if err := from.Decode(&n); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		result, err := s.turn(n)
		if err != nil {
			return fmt.Errorf("%s, %s: %w", t.Uploads.name(), t.Kind, err)
		}
		if err := to.Encode(result); err != nil {
			return err
		}
	}
}

type sender struct {
	task
	url  string
	base *http.Transport
	auth http.RoundTripper // for all uploads, unless each has its own
}

func newSender(t task) *sender {
	s := &sender{task: t, url: t.To.Plain, base: &http.Transport{MaxIdleConnsPerHost: t.Uploads.AtOnce}}
	if t.Uploads.HTTP2 {
		certificate, err := x509.ParseCertificate(t.To.Certificate)
		if err != nil {
			panic(err)
		}
		roots := x509.NewCertPool()
		roots.AddCert(certificate)
		s.url, s.base.ForceAttemptHTTP2 = t.To.Secure, true
		s.base.TLSClientConfig = &tls.Config{RootCAs: roots}
	}
	if t.Uploads.Paced {
		s.base.DialContext = dialPaced
	}
	s.auth = s.transport()
	return s
}

func (s *sender) transport() http.RoundTripper {
	switch s.Kind {
	case kindBase:
		return s.base
	case kindOAuth2:
		return &oauth2.Transport{Source: oauth2.StaticTokenSource(&oauth2.Token{AccessToken: goodToken}), Base: s.base}
	}
	return &transport.Auth{Source: tokensource.Func(s.token), Base: s.base, MaxBody: s.Uploads.Bound}
}

var good, bad = &tokensource.Token{AccessToken: goodToken}, &tokensource.Token{AccessToken: badToken}

func (s *sender) token(_ context.Context, old *tokensource.Token) (*tokensource.Token, error) {
	if s.Uploads.Refused && old == nil {
		return bad, nil
	}
	return good, nil
}

// turn does so many uploads.
func (s *sender) turn(uploads int) (turn, error) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	began := time.Now()
	var left atomic.Int64
	left.Store(int64(uploads))
	errs := make([]error, s.Uploads.AtOnce)
	var all sync.WaitGroup
	for i := range errs {
		all.Go(func() {
			for errs[i] == nil && left.Add(-1) >= 0 {
				errs[i] = s.upload()
			}
		})
	}
	all.Wait()
	took := time.Since(began)
	runtime.ReadMemStats(&after)
	peak, err := peakRSS()
	return turn{took.Seconds(), after.TotalAlloc - before.TotalAlloc, after.NumGC - before.NumGC, peak}, errors.Join(append(errs, err)...)
}

func (s *sender) upload() error {
	if s.Uploads.Refused && s.Kind == kindBase {
		if err := s.do(s.base, badToken, http.StatusUnauthorized); err != nil {
			return err
		}
	}
	rt := s.auth
	if s.Uploads.Refused {
		rt = s.transport() // an Auth would space its refreshes
	}
	return s.do(rt, goodToken, http.StatusOK)
}

func (s *sender) do(rt http.RoundTripper, token string, want int) error {
	req, err := http.NewRequest(http.MethodPut, s.url, &stream{left: s.Uploads.Size})
	if err != nil {
		return err
	}
	if s.Uploads.Length {
		req.ContentLength = s.Uploads.Size
	}
	if s.Kind == kindBase {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return err
	}
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	if resp.StatusCode != want || resp.ProtoMajor == 2 != s.Uploads.HTTP2 {
		return fmt.Errorf("%s: got status %s, want %d", resp.Proto, resp.Status, want)
	}
	return nil
}

// A stream is a body that costs one copy to make, from memory that is in a cache.
type stream struct{ left int64 }

var pattern = strings.Repeat("0123456789abcdef", 8*kib)

func (s *stream) Read(p []byte) (int, error) {
	if s.left == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(int64(len(p)), s.left)], pattern)
	s.left -= int64(n)
	return n, nil
}

func (s *stream) Close() error { return nil }

// peakRSS is zero where the system does not tell.
func peakRSS() (int64, error) {
	status, err := os.ReadFile("/proc/self/status")
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	var n int64
	fmt.Sscan(rest, &n)
	return n * kib, err
}
