package tokensource_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
)

// The secrets of a fuzzed token request. They are written in more than one way
// if they are quoted or encoded.
const hushClient, hushGrant, hushParam = `hush-"cl/ient`, "hush-gränt", "hush+param"

// hushed are what no error may show: what the request carries, as it is and as it
// is written there, and in a URL or a text of Go's.
func hushed(basic bool) (all []string) {
	for _, s := range []string{hushClient, hushGrant, hushParam} {
		all = append(all, s, url.QueryEscape(s), url.PathEscape(s), strings.Trim(strconv.Quote(s), `"`))
	}
	if basic {
		all = append(all, base64.StdEncoding.EncodeToString([]byte("app:"+url.QueryEscape(hushClient))))
	}
	return all
}

// answering is an Endpoint that sends all kinds of secrets, to a server that
// answers this, and whose body may fail at its end.
func answering(status int, header http.Header, body string, broken bool) tokensource.Endpoint {
	e := endpointReply(status, header, body)
	if broken {
		e.Client.Transport = endpointFunc(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(io.MultiReader(strings.NewReader(body), brokenReader{}))}, nil
		})
	}
	e.URL += "?key=" + url.QueryEscape(hushParam)
	e.ClientSecret = hushClient
	return e
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// FuzzReply answers a token request in any way. There is either a token that a
// header can carry, and whose times are in order, or a typed error on one line
// and without any secret that the request carried.
func FuzzReply(f *testing.F) {
	for _, body := range []string{``, `{}`, `null`, `<p>`, `access_token=at&expires_in=-1`, `{"access_token":"a b"}`} {
		f.Add(200, "application/json", "Wed, 21 Oct 2015 07:28:00 GMT", "120", "", body, uint8(0))
		f.Add(400, "text/plain; charset", "x", "Fri, 31 Dec 9999 23:59:59 GMT", "/", body, uint8(1))
	}
	byBasic, byPost := hushed(true), hushed(false)
	f.Fuzz(func(t *testing.T, status int, media, date, retryAfter, location, body string, how uint8) {
		h := http.Header{"Content-Type": {media}, "Date": {date}, "Retry-After": {retryAfter}, "Location": {location}}
		e := answering(status, h, body, how&1 != 0)
		hushed := byBasic
		if how&2 != 0 {
			e.ClientSecretPost, hushed = true, byPost
		}
		form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {hushGrant}}
		if how&4 != 0 { // the local clock is of interest
			form = url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"}, "assertion": {hushGrant}}
		}
		began := time.Now()
		tok, err := e.Exchange(t.Context(), form)
		if (tok == nil) != (err != nil) {
			t.Fatalf("got %v, %v, want either a token or an error", tok, err)
		}
		if err != nil {
			wantHush(t, err, hushed)
		} else {
			wantUsable(t, tok, began)
		}
	})
}

// wantHush checks an error of Exchange, which is typed if the server has answered.
func wantHush(t *testing.T, err error, hushed []string) {
	t.Helper()
	texts := []string{err.Error(), fmt.Sprintf("%+v", err), fmt.Sprintf("%#v", err)}
	e, refused := errors.AsType[*tokensource.EndpointError](err)
	if refused {
		texts = append(texts, e.Code, e.Description, e.URI)
	}
	for _, text := range texts {
		for _, secret := range hushed {
			if strings.Contains(text, secret) {
				t.Fatalf("got %q, which shows %q", text, secret)
			}
		}
	}
	if !refused && !strings.Contains(err.Error(), "Location") {
		t.Fatalf("got %T: %v, want an EndpointError", err, err)
	}
	if strings.ContainsAny(err.Error(), "\r\n\x00") || refused && e.RetryAfter < 0 {
		t.Fatalf("got %q, %#v, want one line and no negative time", err, e)
	}
}

// visible reports whether a header may carry s.
func visible(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}

// wantUsable checks a token that was asked for at began.
func wantUsable(t *testing.T, tok *tokensource.Token, began time.Time) {
	t.Helper()
	if !visible(tok.AccessToken) {
		t.Fatalf("got the access token %q, want one that a header may carry", tok.AccessToken)
	}
	if value, err := tok.Authorization(); err == nil {
		scheme, rest, _ := strings.Cut(value, " ")
		if !visible(scheme) || rest != tok.AccessToken {
			t.Fatalf("got the header's value %q", value)
		}
	}
	latest := time.Now().Add(absurd)
	for name, at := range map[string]time.Time{"Expiry": tok.Expiry, "RefreshAt": tok.RefreshAt} {
		if !at.IsZero() && (at.Before(began) || at.After(latest)) {
			t.Fatalf("got %s %v, want none or one from now on", name, at)
		}
	}
	if !tok.Expiry.IsZero() && tok.RefreshAt.After(tok.Expiry) {
		t.Fatalf("got RefreshAt %v after Expiry %v", tok.RefreshAt, tok.Expiry)
	}
}

// imfDate is the one format that RFC 9110 section 5.6.7 lets a server send.
var imfDate = regexp.MustCompile(`^(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), ([0-9]{2}) (Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) ([0-9]{4}) ([0-9]{2}):([0-9]{2}):([0-9]{2}) GMT$`)

// readDate reads an imfDate by counting; ok is false for another format, or a
// date that does not exist.
func readDate(s string) (at time.Time, ok bool) {
	m := imfDate.FindStringSubmatch(s)
	if m == nil {
		return at, false
	}
	var n [7]int
	for i := range n {
		fmt.Sscanf(m[i], "%d", &n[i])
	}
	n[2] = strings.Index("JanFebMarAprMayJunJulAugSepOctNovDec", m[2])/3 + 1
	at = time.Date(n[3], time.Month(n[2]), n[1], n[4], n[5], n[6], 0, time.UTC)
	return at, at.Day() == n[1] && at.Hour() == n[4] && at.Minute() == n[5] && at.Second() == n[6]
}

var digits = regexp.MustCompile(`^[0-9]+$`)

// readRetryAfter reads Retry-After with big numbers; ok is false for what only
// our own reading knows the meaning of.
func readRetryAfter(value, date string) (wait time.Duration, ok bool) {
	nanos := new(big.Int)
	if digits.MatchString(value) {
		nanos.SetString(value, 10)
		nanos.Mul(nanos, big.NewInt(int64(time.Second)))
	} else {
		at, isDate := readDate(value)
		now, known := readDate(date)
		if !known {
			if _, err := http.ParseTime(date); err == nil {
				return 0, false // in a format of old
			}
			now = time.Now()
		}
		if !isDate {
			return 0, false
		}
		nanos.Mul(big.NewInt(at.Unix()-now.Unix()), big.NewInt(int64(time.Second)))
	}
	switch {
	case nanos.Sign() < 0:
		return 0, true
	case !nanos.IsInt64():
		return math.MaxInt64, true
	}
	return time.Duration(nanos.Int64()), true
}

// FuzzRetryAfter compares how Retry-After is read with another reading, and
// checks that a Cache leaves the endpoint alone for that long, but at most for 4
// minutes and a quarter more.
func FuzzRetryAfter(f *testing.F) {
	for _, value := range []string{"0", "7", "-1", "+5", "1e3", "9223372036", "9223372037", "99999999999999999999"} {
		f.Add(value, "")
	}
	f.Fuzz(func(t *testing.T, value, date string) {
		synctest.Test(t, func(t *testing.T) {
			calls := 0
			e := endpointReply(503, http.Header{"Retry-After": {value}, "Date": {date}}, "")
			c := &tokensource.Cache{Source: tokensource.Func(func(ctx context.Context, _ *Token) (*Token, error) {
				calls++
				return e.Exchange(ctx, anyGrant)
			}), Patience: -1}
			_, err := c.Token(t.Context(), nil)
			refusal, ok := errors.AsType[*tokensource.EndpointError](err)
			if !ok || refusal.RetryAfter < 0 {
				t.Fatalf("got %v, want an EndpointError and no negative time", err)
			}
			if want, known := readRetryAfter(value, date); known && refusal.RetryAfter != want {
				t.Fatalf("Retry-After %q, Date %q: got %v, want %v", value, date, refusal.RetryAfter, want)
			}
			time.Sleep(min(refusal.RetryAfter, 4*time.Minute) - 1)
			if c.Token(t.Context(), nil); calls != 1 && refusal.RetryAfter > 0 {
				t.Fatalf("Retry-After %v: got another request before that", refusal.RetryAfter)
			}
			time.Sleep(5*time.Minute + 2)
			if c.Token(t.Context(), nil); calls < 2 {
				t.Fatalf("Retry-After %v: got no other request after 5 minutes more", refusal.RetryAfter)
			}
		})
	})
}
