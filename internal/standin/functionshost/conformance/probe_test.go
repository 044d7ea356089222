package conformance_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// serveProbe runs the custom handler of the cases: it returns what it receives, and misbehaves on demand.
func serveProbe() {
	p := &probe{hits: map[string]int{}, gates: map[string]chan struct{}{}, gone: map[string]bool{}}
	address := net.JoinHostPort("127.0.0.1", os.Getenv("FUNCTIONS_CUSTOMHANDLER_PORT"))
	fmt.Println("the probe listens on", address)
	log.Fatal(http.ListenAndServe(address, p))
}

type probe struct {
	mu    sync.Mutex
	first *seenRequest             // the first request, with which the host asks whether the handler is ready
	hits  map[string]int           // requests by ?name=
	gates map[string]chan struct{} // streams that wait for their second half
	gone  map[string]bool          // requests whose context ended
}

// seenRequest is a request as the probe received it.
type seenRequest struct {
	Method           string
	URI              string // as in the request line
	Proto            string
	Host             string
	Header           http.Header
	ContentLength    int64
	TransferEncoding []string
	BodyBytes        int64
	BodySHA256       string
}

func see(r *http.Request) seenRequest {
	sum := sha256.New()
	n, _ := io.Copy(sum, r.Body) // the count shows whether the body is complete
	return seenRequest{
		Method: r.Method, URI: r.RequestURI, Proto: r.Proto, Host: r.Host, Header: r.Header,
		ContentLength: r.ContentLength, TransferEncoding: r.TransferEncoding,
		BodyBytes: n, BodySHA256: hex.EncodeToString(sum.Sum(nil)),
	}
}

func (p *probe) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := r.URL.Query().Get("name")
	p.mu.Lock()
	if p.first == nil {
		first := seenRequest{Method: r.Method, URI: r.RequestURI, Proto: r.Proto, Host: r.Host, Header: r.Header.Clone(), ContentLength: r.ContentLength}
		p.first = &first
	}
	if name != "" {
		p.hits[r.URL.Path+"?"+name]++
	}
	p.mu.Unlock()
	what, ok := strings.CutPrefix(r.URL.Path, "/api/act/")
	if !ok {
		w.Header().Set("X-Probe-Method", r.Method)
		p.json(w, see(r))
		return
	}
	p.act(w, r, what, name)
}

func (p *probe) act(w http.ResponseWriter, r *http.Request, what, name string) {
	query := r.URL.Query()
	number := func(key string) int { n, _ := strconv.Atoi(query.Get(key)); return n }
	switch what {
	case "pid":
		fmt.Fprint(w, os.Getpid())
	case "first":
		p.mu.Lock()
		defer p.mu.Unlock()
		p.json(w, p.first)
	case "environ":
		environ := map[string]string{}
		for _, pair := range os.Environ() {
			key, value, _ := strings.Cut(pair, "=")
			environ[key] = value
		}
		directory, _ := os.Getwd()
		p.json(w, map[string]any{"Environ": environ, "Args": os.Args[1:], "Directory": directory})
	case "hits":
		p.mu.Lock()
		defer p.mu.Unlock()
		fmt.Fprint(w, p.hits[query.Get("path")+"?"+query.Get("of")])
	case "status":
		for _, pair := range query["header"] {
			key, value, _ := strings.Cut(pair, ":")
			w.Header().Add(key, value)
		}
		w.WriteHeader(number("code"))
		if text := query.Get("text"); text != "" {
			io.WriteString(w, text)
		}
	case "close": // the connection ends without an answer, as after a panic
		io.Copy(io.Discard, r.Body)
		panic(http.ErrAbortHandler)
	case "truncate": // the answer is cut after the client has its beginning
		w.Header().Set("Content-Length", "100")
		io.WriteString(w, "short")
		w.(http.Flusher).Flush()
		select {
		case <-p.gate(name):
		case <-r.Context().Done():
		}
		panic(http.ErrAbortHandler)
	case "stream":
		gate := p.gate(name)
		io.WriteString(w, "one\n")
		w.(http.Flusher).Flush()
		select {
		case <-gate:
			io.WriteString(w, "two\n")
		case <-r.Context().Done():
		}
	case "release":
		close(p.gate(name))
	case "wait": // until the client is gone, which net/http notices after the body is read
		io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
		p.mu.Lock()
		p.gone[name] = true
		p.mu.Unlock()
	case "gone":
		p.mu.Lock()
		defer p.mu.Unlock()
		fmt.Fprint(w, p.gone[query.Get("of")])
	case "sleep":
		time.Sleep(time.Duration(number("ms")) * time.Millisecond)
		fmt.Fprint(w, r.Context().Err())
	case "exit":
		io.Copy(io.Discard, r.Body)
		os.Exit(number("code"))
	case "upgrade":
		p.upgrade(w, r)
	case "write":
		fmt.Fprintln(os.Stdout, query.Get("stdout"))
		fmt.Fprintln(os.Stderr, query.Get("stderr"))
	default:
		http.Error(w, "the probe does not know "+what, http.StatusNotFound)
	}
}

func (p *probe) gate(name string) chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gates[name] == nil {
		p.gates[name] = make(chan struct{})
	}
	return p.gates[name]
}

// upgrade switches protocols and returns a line in upper case.
func (p *probe) upgrade(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") == "" {
		http.Error(w, "no Upgrade header", http.StatusUpgradeRequired)
		return
	}
	conn, stream, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer conn.Close()
	fmt.Fprintf(stream, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		r.Header.Get("Upgrade"), r.URL.Query().Get("accept"))
	stream.Flush()
	line, err := stream.ReadString('\n')
	if err != nil {
		return
	}
	io.WriteString(stream, strings.ToUpper(line))
	stream.Flush()
}

func (p *probe) json(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		log.Print("error: ", err)
	}
}
