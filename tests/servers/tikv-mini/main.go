// SPDX-License-Identifier: Apache-2.0

// tikv-mini: a TiKV for tests. One process speaks TiKV's and PD's gRPC protocol on ONE port; it is made of TiDB's
// unistore (badger MVCC engine) plus a tiny PD and etcd-KV front.
//
// Good for: the real transaction protocol (two-phase and one-phase commit, async commit, locks, region splits), several
// clients at once. Not good for: crashes (a SIGKILL in the middle of a two-phase commit may lose secondaries), several
// stores. An empty value reads as missing, as JuiceFS refuses it on TiKV.
//
// Built by tests/tools/install_tikv.sh, started by tests/servers/tikv.py.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/pingcap/kvproto/pkg/kvrpcpb"
	"github.com/pingcap/kvproto/pkg/metapb"
	"github.com/pingcap/kvproto/pkg/pdpb"
	"github.com/pingcap/kvproto/pkg/tikvpb"
	"github.com/pingcap/log"
	"github.com/pingcap/tidb/pkg/store/mockstore/unistore/config"
	"github.com/pingcap/tidb/pkg/store/mockstore/unistore/server"
	"github.com/pingcap/tidb/pkg/store/mockstore/unistore/tikv"
	pdc "github.com/tikv/pd/client"
	etcd "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
)

const cid = 7001

type kvSrv struct{ *tikv.Server } // unistore leaves NotFound unset; the Rust client needs it

func (s kvSrv) KvGet(c context.Context, r *kvrpcpb.GetRequest) (*kvrpcpb.GetResponse, error) {
	p, err := s.Server.KvGet(c, r)
	if p != nil && p.Error == nil && p.RegionError == nil {
		p.NotFound = len(p.Value) == 0
	}
	return p, err
}

// unistore's own DeleteRange leaves tombstones without metadata, on which a later rollback
// of the key panics; so delete with ordinary transactions instead.
func (s kvSrv) KvDeleteRange(c context.Context, r *kvrpcpb.DeleteRangeRequest) (*kvrpcpb.DeleteRangeResponse, error) {
	for {
		p, l := tikv.GetTS()
		ts := uint64(p)<<18 + uint64(l)
		sc, err := s.Server.KvScan(c, &kvrpcpb.ScanRequest{Context: r.Context, StartKey: r.StartKey, EndKey: r.EndKey, Limit: 1000, Version: ts, KeyOnly: true})
		if err != nil || sc.RegionError != nil || len(sc.Pairs) == 0 {
			return &kvrpcpb.DeleteRangeResponse{RegionError: sc.GetRegionError()}, err
		}
		var ms []*kvrpcpb.Mutation
		var ks [][]byte
		for _, x := range sc.Pairs {
			if x.Error != nil {
				return &kvrpcpb.DeleteRangeResponse{Error: x.Error.String()}, nil
			}
			ms, ks = append(ms, &kvrpcpb.Mutation{Op: kvrpcpb.Op_Del, Key: x.Key}), append(ks, x.Key)
		}
		pw, err := s.Server.KvPrewrite(c, &kvrpcpb.PrewriteRequest{Context: r.Context, Mutations: ms, PrimaryLock: ks[0], StartVersion: ts, LockTtl: 3000})
		if err != nil || pw.RegionError != nil {
			return &kvrpcpb.DeleteRangeResponse{RegionError: pw.GetRegionError()}, err
		} else if len(pw.Errors) > 0 {
			return &kvrpcpb.DeleteRangeResponse{Error: pw.Errors[0].String()}, nil
		}
		p, l = tikv.GetTS()
		cm, err := s.Server.KvCommit(c, &kvrpcpb.CommitRequest{Context: r.Context, StartVersion: ts, Keys: ks, CommitVersion: uint64(p)<<18 + uint64(l)})
		if err != nil || cm.RegionError != nil {
			return &kvrpcpb.DeleteRangeResponse{RegionError: cm.GetRegionError()}, err
		}
	}
}
func (s kvSrv) BatchCommands(st tikvpb.Tikv_BatchCommandsServer) error {
	return s.Server.BatchCommands(&stream{st, s, sync.Mutex{}})
}

type stream struct { // hands the DeleteRange requests of a batch to the above
	tikvpb.Tikv_BatchCommandsServer
	s  kvSrv
	mu sync.Mutex
}

func (b *stream) Send(m *tikvpb.BatchCommandsResponse) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Tikv_BatchCommandsServer.Send(m)
}
func (b *stream) Recv() (*tikvpb.BatchCommandsRequest, error) {
	m, err := b.Tikv_BatchCommandsServer.Recv()
	if err != nil {
		return m, err
	}
	o := &tikvpb.BatchCommandsRequest{}
	for i, q := range m.Requests {
		if d := q.GetDeleteRange(); d != nil {
			go func(id uint64) {
				p, _ := b.s.KvDeleteRange(b.Context(), d)
				x := &tikvpb.BatchCommandsResponse_Response{Cmd: &tikvpb.BatchCommandsResponse_Response_DeleteRange{DeleteRange: p}}
				_ = b.Send(&tikvpb.BatchCommandsResponse{RequestIds: []uint64{id}, Responses: []*tikvpb.BatchCommandsResponse_Response{x}})
			}(m.RequestIds[i])
		} else {
			o.Requests, o.RequestIds = append(o.Requests, q), append(o.RequestIds, m.RequestIds[i])
		}
	}
	return o, nil
}

type etcdSrv struct { // client-go reads /tidb/store/gcworker/saved_safe_point from PD's etcd
	etcd.UnimplementedKVServer
	m sync.Map
}

func (e *etcdSrv) Range(_ context.Context, r *etcd.RangeRequest) (*etcd.RangeResponse, error) {
	p := &etcd.RangeResponse{Header: &etcd.ResponseHeader{ClusterId: cid, Revision: 1}}
	if v, ok := e.m.Load(string(r.Key)); ok {
		p.Kvs, p.Count = []*mvccpb.KeyValue{{Key: r.Key, Value: v.([]byte), Version: 1}}, 1
	}
	return p, nil
}
func (e *etcdSrv) Put(_ context.Context, r *etcd.PutRequest) (*etcd.PutResponse, error) {
	e.m.Store(string(r.Key), r.Value)
	return &etcd.PutResponse{Header: &etcd.ResponseHeader{ClusterId: cid, Revision: 1}}, nil
}

type pdSrv struct {
	pdpb.UnimplementedPDServer
	pd  *tikv.MockPD
	url string
	mu  sync.Mutex
	ssp map[string]uint64
}

func h() *pdpb.ResponseHeader { return &pdpb.ResponseHeader{ClusterId: cid} }
func (s *pdSrv) GetMembers(context.Context, *pdpb.GetMembersRequest) (*pdpb.GetMembersResponse, error) {
	m := &pdpb.Member{Name: "pd", MemberId: 1, PeerUrls: []string{s.url}, ClientUrls: []string{s.url}}
	return &pdpb.GetMembersResponse{Header: h(), Members: []*pdpb.Member{m}, Leader: m, EtcdLeader: m}, nil
}
func (s *pdSrv) GetClusterInfo(context.Context, *pdpb.GetClusterInfoRequest) (*pdpb.GetClusterInfoResponse, error) {
	return &pdpb.GetClusterInfoResponse{Header: h(), ServiceModes: []pdpb.ServiceMode{pdpb.ServiceMode_PD_SVC_MODE}}, nil
}
func (s *pdSrv) Tso(st pdpb.PD_TsoServer) error {
	for {
		r, err := st.Recv()
		if err != nil {
			return nil
		}
		p, l := tikv.GetTS()
		for n := uint32(1); n < r.Count; n++ { // want Count consecutive ones of one millisecond
			p2, l2 := tikv.GetTS()
			if p2 != p || l2 != l+1 {
				n = 0
			}
			p, l = p2, l2
		}
		if err = st.Send(&pdpb.TsoResponse{Header: h(), Count: r.Count, Timestamp: &pdpb.Timestamp{Physical: p, Logical: l}}); err != nil {
			return err
		}
	}
}
func (s *pdSrv) GetMinTS(context.Context, *pdpb.GetMinTSRequest) (*pdpb.GetMinTSResponse, error) {
	p, l := tikv.GetTS()
	return &pdpb.GetMinTSResponse{Header: h(), Timestamp: &pdpb.Timestamp{Physical: p, Logical: l}}, nil
}
func (s *pdSrv) IsBootstrapped(context.Context, *pdpb.IsBootstrappedRequest) (*pdpb.IsBootstrappedResponse, error) {
	return &pdpb.IsBootstrappedResponse{Header: h(), Bootstrapped: true}, nil
}
func (s *pdSrv) AllocID(c context.Context, _ *pdpb.AllocIDRequest) (*pdpb.AllocIDResponse, error) {
	id, err := s.pd.AllocID(c)
	return &pdpb.AllocIDResponse{Header: h(), Id: id}, err
}
func (s *pdSrv) GetAllStores(c context.Context, _ *pdpb.GetAllStoresRequest) (*pdpb.GetAllStoresResponse, error) {
	v, err := s.pd.GetAllStores(c)
	return &pdpb.GetAllStoresResponse{Header: h(), Stores: v}, err
}
func (s *pdSrv) GetStore(c context.Context, r *pdpb.GetStoreRequest) (*pdpb.GetStoreResponse, error) {
	v, err := s.pd.GetAllStores(c)
	for _, x := range v {
		if x.Id == r.StoreId {
			return &pdpb.GetStoreResponse{Header: h(), Store: x}, err
		}
	}
	e := &pdpb.Error{Type: pdpb.ErrorType_UNKNOWN, Message: fmt.Sprintf("invalid store ID %d, not found", r.StoreId)}
	return &pdpb.GetStoreResponse{Header: &pdpb.ResponseHeader{ClusterId: cid, Error: e}}, nil
}
func region(r *pdc.Region, err error) (*pdpb.GetRegionResponse, error) {
	if err != nil || r == nil {
		return &pdpb.GetRegionResponse{Header: h()}, err
	}
	return &pdpb.GetRegionResponse{Header: h(), Region: r.Meta, Leader: r.Leader}, nil
}
func (s *pdSrv) GetRegion(c context.Context, r *pdpb.GetRegionRequest) (*pdpb.GetRegionResponse, error) {
	return region(s.pd.GetRegion(c, r.RegionKey))
}
func (s *pdSrv) GetPrevRegion(c context.Context, r *pdpb.GetRegionRequest) (*pdpb.GetRegionResponse, error) {
	return region(s.pd.GetPrevRegion(c, r.RegionKey))
}
func (s *pdSrv) GetRegionByID(c context.Context, r *pdpb.GetRegionByIDRequest) (*pdpb.GetRegionResponse, error) {
	return region(s.pd.GetRegionByID(c, r.RegionId))
}
func (s *pdSrv) ScanRegions(c context.Context, r *pdpb.ScanRegionsRequest) (*pdpb.ScanRegionsResponse, error) {
	v, err := s.pd.ScanRegions(c, r.StartKey, r.EndKey, int(r.Limit))
	p := &pdpb.ScanRegionsResponse{Header: h()}
	for _, x := range v {
		p.RegionMetas, p.Leaders = append(p.RegionMetas, x.Meta), append(p.Leaders, x.Leader)
		p.Regions = append(p.Regions, &pdpb.Region{Region: x.Meta, Leader: x.Leader})
	}
	return p, err
}
func (s *pdSrv) GetGCSafePoint(c context.Context, _ *pdpb.GetGCSafePointRequest) (*pdpb.GetGCSafePointResponse, error) {
	v, err := s.pd.GetGCSafePoint(c)
	return &pdpb.GetGCSafePointResponse{Header: h(), SafePoint: v}, err
}
func (s *pdSrv) UpdateGCSafePoint(c context.Context, r *pdpb.UpdateGCSafePointRequest) (*pdpb.UpdateGCSafePointResponse, error) {
	v, err := s.pd.UpdateGCSafePoint(c, r.SafePoint)
	return &pdpb.UpdateGCSafePointResponse{Header: h(), NewSafePoint: v}, err
}
func (s *pdSrv) UpdateServiceGCSafePoint(c context.Context, r *pdpb.UpdateServiceGCSafePointRequest) (*pdpb.UpdateServiceGCSafePointResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ssp[string(r.ServiceId)] = r.SafePoint
	if r.TTL <= 0 {
		delete(s.ssp, string(r.ServiceId))
	}
	id, low := "gc_worker", ^uint64(0)
	for k, v := range s.ssp {
		if v < low {
			id, low = k, v
		}
	}
	return &pdpb.UpdateServiceGCSafePointResponse{Header: h(), ServiceId: []byte(id), TTL: r.TTL, MinSafePoint: low}, nil
}

func main() {
	addr := flag.String("addr", "127.0.0.1:2379", "listen address of PD and TiKV")
	adv := flag.String("advertise", "", "address that PD tells clients, such as a proxy's; empty: the same")
	dir := flag.String("data", "", "data directory; empty: memory only")
	split := flag.String("split", "", "comma-separated keys at which a fresh store is split into regions")
	level := flag.String("log", "warn", "log level")
	flag.Parse()
	if *adv == "" {
		*adv = *addr
	}
	lg, props, _ := log.InitLogger(&log.Config{Level: *level})
	log.ReplaceGlobals(lg, props)
	must := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, "tikv-mini:", err)
			os.Exit(1)
		}
	}
	conf := config.DefaultConf
	conf.Server.StoreAddr, conf.Server.PDAddr, conf.Server.Raft = *addr, *addr, false
	conf.Engine.ValueThreshold, conf.Engine.SyncWrite = 0, true
	if *dir == "" {
		d, err := os.MkdirTemp("", "tikv-mini")
		must(err)
		defer os.RemoveAll(d)
		*dir, conf.Engine.VolatileMode, conf.Engine.SyncWrite = d, true, false
		conf.Engine.MaxMemTableSize, conf.Engine.NumCompactors, conf.Engine.VlogFileSize = 12<<20, 1, 16<<20
	}
	conf.Engine.DBPath = *dir
	must(os.MkdirAll(*dir, 0o755))
	srv, rm, mpd, err := server.NewMock(&conf, cid)
	must(err)
	store := &metapb.Store{Id: 1, Address: *adv, Version: "8.1.0"}
	if ok, err := mpd.IsBootstrapped(context.Background()); err != nil || !ok {
		must(err)
		_, err = mpd.Bootstrap(context.Background(), store, &metapb.Region{Id: 2,
			RegionEpoch: &metapb.RegionEpoch{ConfVer: 1, Version: 1}, Peers: []*metapb.Peer{{Id: 3, StoreId: 1}}})
		must(err)
		for _, k := range strings.FieldsFunc(*split, func(r rune) bool { return r == ',' }) {
			rm.AllocIDs(3) // never hand out ids 1-3 again
			rm.SplitArbitrary([]byte(k))
		}
	}
	must(mpd.PutStore(context.Background(), store))
	g := grpc.NewServer(grpc.MaxRecvMsgSize(256<<20), grpc.MaxSendMsgSize(256<<20), grpc.KeepaliveEnforcementPolicy(
		keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}))
	tikvpb.RegisterTikvServer(g, kvSrv{srv})
	pdpb.RegisterPDServer(g, &pdSrv{pd: mpd, url: "http://" + *adv, ssp: map[string]uint64{}})
	etcd.RegisterKVServer(g, &etcdSrv{})
	healthpb.RegisterHealthServer(g, health.NewServer()) // client-go asks it whether a store lives
	l, err := net.Listen("tcp", *addr)
	must(err)
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGTERM, syscall.SIGINT)
	go func() { <-c; g.Stop() }()
	fmt.Println("tikv-mini: ready on", *addr)
	must(g.Serve(l))
	srv.Stop()
}
