package requestlog
import ("testing";"os";"bytes";"io")
func benchFile(b *testing.B, name string){
	all,err:=os.ReadFile("/tmp/rl/"+name); if err!=nil{b.Fatal(err)}
	all=all[:20<<20]
	b.SetBytes(int64(len(all)))
	b.ReportAllocs()
	for b.Loop(){
		r,err:=Stream("x",bytes.NewReader(all)).Reader(b.Context(),nil); var blk Block; n:=0
		if err!=nil{b.Fatal(err)}
		for {
			if err=r.Next(&blk);err!=nil{break}
			for i := range blk.Items() { if i.Body!=nil&&i.Err==nil{n++}}
		}
		if err!=io.EOF{b.Fatal(err)}
		b.ReportMetric(float64(n),"items")
	}
}
func BenchmarkReqs(b *testing.B){benchFile(b,"reqs.ndjson")}
func BenchmarkRecs(b *testing.B){benchFile(b,"recs.ndjson")}
