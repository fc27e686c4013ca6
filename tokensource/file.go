package tokensource

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/tokentripper/tokentripper/internal/clock"
)

// File reads its token from a file that another program keeps fresh, such as a
// projected service account token of Kubernetes. For an API, put a [Cache] over it: the
// Cache reads the file again every minute while the token is in use, and when a server
// refuses the token. As an assertion, the file is read for each token request.
//
// File ignores white space around the token. A file that is replaced, by rename or by
// symbolic link, is read whole or not at all. A file that is written in place is read
// again until it stays the same. If a half-written token is read nevertheless, the
// server refuses it, and the file is read again. On Windows, a program that replaces
// the file during a read may have to try again.
type File struct {
	// Path is the path of the file.
	Path string
}

// Bounds of File.
const (
	maxFile   = 1 << 20               // far larger than any token
	fileAge   = time.Minute           // how long a token is used before the file is read again
	fileCalm  = 10 * time.Millisecond // how long a changed file must stay the same
	fileReads = 50                    // how often a file is read that changes or is empty
)

// Token reads the file and ignores old. A JWT that states its lifetime gets an Expiry,
// which counts from the file's modification, or from its iat if that is later. The
// error is ctx's, or after half a second says what is wrong with the file: it is
// missing, empty or larger than 1 MiB, or has no token.
func (f *File) Token(ctx context.Context, old *Token) (*Token, error) {
	token, err := f.read()
	for reads := 1; (err != nil || !token.same(old)) && reads < fileReads; reads++ {
		if err := clock.Wait(ctx, nil, fileCalm); err != nil {
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
	if !info.Mode().IsRegular() { // opening a pipe might block
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
