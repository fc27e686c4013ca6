package tokensource_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokentripper/tokentripper/internal/lab/secrets"
	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
)

// tokenFile is a file with this text.
func tokenFile(t *testing.T, text string) *tokensource.File {
	t.Helper()
	f := &tokensource.File{Path: filepath.Join(t.TempDir(), "token")}
	write(t, f.Path, text)
	return f
}

// write writes in place.
func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Error(err)
	}
}

// replace renames a new file over path: on Windows when nobody has that open.
func replace(t *testing.T, path, text string) {
	t.Helper()
	next := path + ".next"
	write(t, next, text)
	err := os.Rename(next, path)
	for tries := 0; err != nil && runtime.GOOS == "windows" && tries < 1000; tries++ {
		time.Sleep(time.Microsecond)
		err = os.Rename(next, path)
	}
	if err != nil {
		t.Error(err)
	}
}

func TestAFilesTokenIsWhatIsInItWithoutWhiteSpace(t *testing.T) {
	for text, want := range map[string]string{
		"opaque": "opaque", "opaque\n": "opaque", "opaque\r\n": "opaque", " \n\topaque \n\n": "opaque",
		"eyJ.eyJ.x\n": "eyJ.eyJ.x", "eyJ.e.n.c.x": "eyJ.e.n.c.x", "a.b": "a.b", "eyeJ": "eyeJ",
	} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			tok, err := tokenFile(t, text).Token(t.Context(), nil)
			wantToken(t, tok, err, want)
			if tok.TokenType != "" || tok.RefreshToken != "" || !tok.Expiry.IsZero() || tok.RefreshAt.Sub(began) < time.Minute || time.Since(began) > 100*time.Millisecond {
				t.Errorf("%q: got %#v after %v, want RefreshAt a minute later", text, tok, time.Since(began))
			}
		})
	}
}

func TestWhatIsWrongWithAFileIsToldAfterHalfASecond(t *testing.T) {
	dir := t.TempDir()
	path := func(name, text string) string {
		write(t, filepath.Join(dir, name), text)
		return filepath.Join(dir, name)
	}
	missing := filepath.Join(dir, "missing")
	_, err := os.Stat(missing)
	for want, p := range map[string]string{
		err.Error():                          missing,
		"/empty is empty":                    path("empty", ""),
		"/blank is empty":                    path("blank", " \r\n\t"),
		"is not a regular file":              dir,
		"/large has more than 1048576 bytes": path("large", strings.Repeat("x", 1<<20+1)),
		"/half holds the beginning of a JWT": path("half", "eyJhbGciOiJSUzI1NiJ9.eyJzdWIi"),
		"/head holds the beginning of a JWT": path("head", "eyJhbGci"),
		"/two: tokensource: access_token has the byte 0x0a, which no header may carry": path("two", "one\ntwo\n"),
		"/bin: tokensource: access_token has the byte 0x00, which no header may carry": path("bin", "a\x00b"),
	} {
		wantFileError(t, p, strings.Replace(want, "/", string(filepath.Separator), 1))
	}
}

func wantFileError(t *testing.T, path, want string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		tok, err := (&tokensource.File{Path: path}).Token(t.Context(), nil)
		if tok != nil || err == nil || !strings.HasPrefix(err.Error(), "tokensource: File.Path: ") || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("got %v, %v\nwant an error of File.Path: %s", tok, err, want)
		}
		if waited := time.Since(began); waited < 400*time.Millisecond || waited > 600*time.Millisecond {
			t.Errorf("%s: got the error after %v, want half a second", want, waited)
		}
	})
}

func TestTheErrorOfAMissingFileIsWrapped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, err := (&tokensource.File{Path: filepath.Join(t.TempDir(), "none")}).Token(t.Context(), nil)
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("got %v, want fs.ErrNotExist wrapped", err)
		}
	})
}

func TestAFileOfExactlyOneMiBIsRead(t *testing.T) {
	token := strings.Repeat("x", 1<<20)
	if tok, err := tokenFile(t, token).Token(t.Context(), nil); err != nil || tok.AccessToken != token {
		t.Errorf("got %v, %v, want the token", tok, err)
	}
}

func TestAFileThatComesWhileItIsAwaitedIsRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &tokensource.File{Path: filepath.Join(t.TempDir(), "token")}
		time.AfterFunc(105*time.Millisecond, func() { replace(t, f.Path, "new") })
		tok, err := f.Token(t.Context(), nil)
		wantToken(t, tok, err, "new")
	})
}

func TestAFileThatIsWrittenInPlaceIsReadWhole(t *testing.T) {
	whole := unsignedJWT(`{"alg":"RS256"}`, `{"sub":"`+strings.Repeat("a", 100)+`"}`)
	for _, cut := range []int{0, 5, 30, len(whole) - 1} {
		synctest.Test(t, func(t *testing.T) {
			f := tokenFile(t, whole[:cut])
			time.AfterFunc(5*time.Millisecond, func() { write(t, f.Path, whole) })
			tok, err := f.Token(t.Context(), nil)
			wantToken(t, tok, err, whole)
		})
	}
}

func TestASlowWriterIsAwaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		whole := strings.Repeat("opaque", 10)
		f := tokenFile(t, "")
		for i := range len(whole) + 1 {
			time.AfterFunc(time.Duration(i)*7*time.Millisecond, func() { write(t, f.Path, whole[:i]) })
		}
		tok, err := f.Token(t.Context(), &Token{AccessToken: "old"})
		wantToken(t, tok, err, whole)
	})
}

func TestAFileThatNeverStaysTheSameIsStillRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		f := tokenFile(t, "token-0")
		go func() {
			for i := 1; wait(ctx, 3*time.Millisecond) == nil; i++ {
				replace(t, f.Path, fmt.Sprintf("token-%d", i))
			}
		}()
		began := time.Now()
		tok, err := f.Token(t.Context(), nil)
		if err != nil || !strings.HasPrefix(tok.AccessToken, "token-") || time.Since(began) > time.Second {
			t.Errorf("got %v, %v after %v, want one of the tokens within a second", tok, err, time.Since(began))
		}
	})
}

func TestAFileThatWasNotRotatedHasNoOtherToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, began := tokenFile(t, "one"), time.Now()
		tok, err := f.Token(t.Context(), &Token{AccessToken: "one"})
		wantToken(t, tok, err, "one")
		if waited := time.Since(began); waited != 0 {
			t.Errorf("got the same token after %v, want it at once", waited)
		}
	})
}

func TestAFileIsNotAwaitedLongerThanTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 35*time.Millisecond)
		defer cancel()
		began := time.Now()
		tok, err := tokenFile(t, "eyJhalf").Token(ctx, nil)
		if tok != nil || err != context.DeadlineExceeded || time.Since(began) != 35*time.Millisecond {
			t.Errorf("got %v, %v after %v, want the context's error at its end", tok, err, time.Since(began))
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if tok, err := tokenFile(t, "one").Token(ended, nil); tok != nil || err != context.Canceled {
			t.Errorf("got %v, %v, want context.Canceled", tok, err)
		}
	})
}

// letters is a token that no mix of two is like.
func letters(i int) string { return strings.Repeat(string(rune('A'+i%26)), 10_000+i) }

// wantWhole lets many read f at the very moments when rotate replaces letters(0).
func wantWhole(t *testing.T, f *tokensource.File, rotate func(n int, token string)) {
	t.Helper()
	const rotations = 100
	whole := map[string]bool{}
	for i := range rotations {
		whole[letters(i)] = true
	}
	go func() {
		for i := 1; i < rotations; i++ {
			time.Sleep(30 * time.Millisecond)
			rotate(i, letters(i))
		}
	}()
	for _, err := range all(8, func(int) error {
		for range 3 * rotations {
			if tok, err := f.Token(t.Context(), nil); err != nil || !whole[tok.AccessToken] {
				return fmt.Errorf("%v, %v", tok, err)
			}
		}
		return nil
	}) {
		if err != nil {
			t.Errorf("got %v, want a whole token", err)
		}
	}
}

func TestAFileThatIsReplacedByRenameIsNeverReadMixed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := tokenFile(t, letters(0))
		wantWhole(t, f, func(_ int, token string) { replace(t, f.Path, token) })
	})
}

// mount lays token out as Kubernetes does: token -> ..data/token, ..data -> ..N.
func mount(t *testing.T, dir string, n int, token string) {
	t.Helper()
	version := fmt.Sprintf("..%d", n)
	if err := os.Mkdir(filepath.Join(dir, version), 0o700); err != nil {
		t.Error(err)
	}
	write(t, filepath.Join(dir, version, "token"), token)
	next := filepath.Join(dir, "..data_tmp")
	if err := errors.Join(os.Symlink(version, next), os.Rename(next, filepath.Join(dir, "..data"))); err != nil {
		t.Error(err)
	}
	os.RemoveAll(filepath.Join(dir, fmt.Sprintf("..%d", n-1)))
}

func TestAProjectedTokenOfKubernetesIsNeverReadMixed(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a link to a directory cannot be replaced there")
	}
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		mount(t, dir, 0, letters(0))
		if err := os.Symlink("..data/token", filepath.Join(dir, "token")); err != nil {
			t.Fatal(err)
		}
		wantWhole(t, &tokensource.File{Path: filepath.Join(dir, "token")}, func(n int, token string) { mount(t, dir, n, token) })
	})
}

func TestAJWTInAFileLivesFromItsWritingOrItsIatWhicheverIsLater(t *testing.T) {
	written := time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)
	for iat, want := range map[time.Time]time.Time{
		written:                     written.Add(time.Hour),
		written.Add(-time.Minute):   written.Add(time.Hour), // a clock that is behind
		written.Add(time.Minute):    written.Add(time.Hour + time.Minute),
		written.AddDate(-10, 0, 0):  written.Add(time.Hour),
		written.Add(24 * time.Hour): written.Add(25 * time.Hour),
	} {
		f := tokenFile(t, unsignedJWT(`{"alg":"RS256"}`, fmt.Sprintf(`{"iat":%d,"exp":%d}`, iat.Unix(), iat.Add(time.Hour).Unix())))
		if err := os.Chtimes(f.Path, time.Time{}, written); err != nil {
			t.Fatal(err)
		}
		tok, err := f.Token(t.Context(), nil)
		if err != nil || !tok.Expiry.Equal(want) {
			t.Errorf("iat %v: got %v, %v, want it to expire at %v", iat, tok, err, want)
		}
	}
}

func TestACacheReadsTheFileEveryMinuteWhileItIsUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := tokenFile(t, "one")
		c := &tokensource.Cache{Source: f}
		tok, err := c.Token(t.Context(), nil)
		wantToken(t, tok, err, "one")
		replace(t, f.Path, "two")
		time.Sleep(58 * time.Second)
		tok, err = c.Token(t.Context(), nil)
		wantToken(t, tok, err, "one")
		time.Sleep(3 * time.Second)
		c.Token(t.Context(), nil) // nobody waits for an early refresh
		time.Sleep(time.Second)
		tok, err = c.Token(t.Context(), nil)
		wantToken(t, tok, err, "two")
	})
}

func TestACacheOverAFileThatDoesNotChangeReadsItOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reads atomic.Int32
		f := tokenFile(t, "one")
		c := &tokensource.Cache{Source: tokensource.Func(func(ctx context.Context, old *Token) (*Token, error) {
			reads.Add(1)
			return f.Token(ctx, old)
		})}
		for range 3600 {
			tok, err := c.Token(t.Context(), nil)
			wantToken(t, tok, err, "one")
			time.Sleep(time.Second)
		}
		if n := reads.Load(); n < 55 || n > 65 {
			t.Errorf("got %d reads in an hour, want about 60", n)
		}
	})
}

func TestAFileThatVanishesIsNotNoticedWhileTheTokenIsGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := tokenFile(t, "one")
		c := &tokensource.Cache{Source: f}
		c.Token(t.Context(), nil)
		os.Remove(f.Path)
		for range 600 {
			tok, err := c.Token(t.Context(), nil)
			wantToken(t, tok, err, "one")
			time.Sleep(time.Second)
		}
		replace(t, f.Path, "two")
		for range 120 {
			c.Token(t.Context(), nil)
			time.Sleep(time.Second)
		}
		tok, err := c.Token(t.Context(), nil)
		wantToken(t, tok, err, "two")
		time.Sleep(time.Second) // for an early refresh
	})
}

func TestARefusedTokenIsReadAgainFromItsFile(t *testing.T) {
	var accepted atomic.Value
	accepted.Store("Bearer one")
	api, calls := endpointServer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != accepted.Load() {
			w.WriteHeader(401)
		}
	})
	f := tokenFile(t, "one\n")
	client := &http.Client{Transport: &transport.Auth{Source: &tokensource.Cache{Source: f}}}
	for i, want := range []int32{1, 3, 4} { // the second is refused once
		if i == 1 {
			accepted.Store("Bearer two")
			replace(t, f.Path, "two\n")
		}
		resp, err := client.Get(api.URL)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 200 || calls.Load() != want {
			t.Errorf("request %d: got %s after %d calls, want 200 after %d", i+1, resp.Status, calls.Load(), want)
		}
	}
}

func TestAnAssertionFromAFileIsReadForEachTokenRequest(t *testing.T) {
	srv := trusting(t)
	sign := func() string {
		return must(assertionFor(srv, srv.ClientID, srv.ClientID).Token(t.Context(), nil)).AccessToken + "\n"
	}
	f := tokenFile(t, sign())
	e := tokensource.Endpoint{URL: srv.TokenURL(), ClientAssertion: f}
	for range 3 {
		tok, err := (&tokensource.ClientCredentials{Endpoint: e}).Token(t.Context(), nil)
		wantSubject(t, srv, tok, err, srv.ClientID, "")
		replace(t, f.Path, sign())
	}
}

func TestAFileShowsItsPathAndCannotShowMore(t *testing.T) {
	f := tokenFile(t, hush)
	c := &tokensource.Cache{Source: f}
	if _, err := c.Token(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	secrets.Check(t, "File", f)
	secrets.Check(t, "Cache", c)
}

func TestAPipeIsNotOpened(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := exec.Command("mkfifo", path).Run(); err != nil {
		t.Skip(err)
	}
	_, err := (&tokensource.File{Path: path}).Token(t.Context(), nil)
	if err == nil || !strings.Contains(err.Error(), "is not a regular file") {
		t.Errorf("got %v, want an error that says it is no regular file", err)
	}
}
