package tokensource

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// File reads its token from a file that something else keeps fresh, such as a
// projected service account token of Kubernetes. Put a [Cache] over it for an
// API: it reads the file again every minute while the token is in use, and when
// a server refuses it. As an assertion, it is read for each token request.
//
// White space around the token is ignored. A file that is replaced, by rename or
// by symbolic link, is read whole or not at all; one that is written in place is
// read again until it stays the same. A token that was caught half-written all
// the same is refused by the server, and read again. On Windows, a program that
// replaces the file while it is read may have to try again.
type File struct {
	// Path of the file.
	Path string
}

// Bounds of File.
const (
	maxFile   = 1 << 20               // far above any token
	fileAge   = time.Minute           // how long a token is used before the file is read again
	fileCalm  = 10 * time.Millisecond // how long a changed file must stay the same
	fileReads = 50                    // how often a file that changes, or is empty, is read
)

// Token reads the file, whatever old is. A JWT that tells its lifetime has an
// Expiry, which counts from when the file was modified, or from its iat if that
// is later. The error is ctx's, or after half a second says what is wrong with
// the file: missing, empty, over 1 MiB, no token.
func (f *File) Token(ctx context.Context, old *Token) (*Token, error) {
	token, err := f.read()
	for reads := 1; (err != nil || !token.same(old)) && reads < fileReads; reads++ {
		if err := sleep(ctx, fileCalm); err != nil {
			return nil, err
		}
		before := token
		if token, err = f.read(); err == nil && token.same(before) {
			return token, nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("tokensource: File.Path: %w", err)
	}
	return token, nil
}

func (f *File) read() (*Token, error) {
	info, err := os.Stat(f.Path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() { // to open a pipe might never return
		return nil, fmt.Errorf("%s is not a regular file", f.Path)
	}
	file, err := open(f.Path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if info, err = file.Stat(); err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return nil, err
	}
	token := &Token{AccessToken: string(bytes.TrimSpace(data)), RefreshAt: time.Now().Add(fileAge)}
	switch dots := strings.Count(token.AccessToken, "."); {
	case len(data) > maxFile:
		return nil, fmt.Errorf("%s has more than %d bytes", f.Path, maxFile)
	case token.AccessToken == "":
		return nil, fmt.Errorf("%s is empty", f.Path)
	case strings.HasPrefix(token.AccessToken, "eyJ") && dots < 2:
		return nil, fmt.Errorf("%s holds the beginning of a JWT", f.Path)
	}
	if err := token.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", f.Path, err)
	}
	issued, _ := token.claimedLife(time.Now())
	return token.withLifetime(later(info.ModTime(), issued)), nil
}

// sleep waits, unless ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
