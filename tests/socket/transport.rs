//! What surrounds the services: compression, deadlines, health, reflection, strangers.

use crate::support::{Backend, Server, increment, observation, on_both, second_ago};
use bytes::Bytes;
use healthd::serve::proto::v1;
use http::{Request, StatusCode};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tonic::Code;
use tonic::codec::CompressionEncoding::{Gzip, Zstd};
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::{v1 as reflection, v1alpha as reflection_alpha};

on_both!(
    messages_are_compressed_both_ways_as_the_client_likes,
    reflection_tells_every_service_in_both_versions_with_comments,
    a_stranger_gets_an_answer_of_its_own_kind,
    a_wait_that_is_too_long_ends_with_deadline_exceeded,
);

async fn messages_are_compressed_both_ways_as_the_client_likes(server: Server) {
    let client = server.client().await;
    for (encoding, name) in [(Gzip, "gzip"), (Zstd, "zstd")] {
        let component = name.to_owned();
        let mut ingest =
            client.ingest.clone().send_compressed(encoding).accept_compressed(encoding);
        let mut query = client.query.clone().send_compressed(encoding).accept_compressed(encoding);
        let mut admin = client.admin.clone().send_compressed(encoding).accept_compressed(encoding);
        let metrics = (0..200).map(|n| observation(&component, &format!("m{n}"), 1.0)).collect();
        let record = v1::RecordRequest { metrics, wait_durable: false, ..Default::default() };
        let answer = ingest.record(record).await.unwrap();
        assert_eq!(answer.get_ref().accepted, 200);
        let request = v1::GetCurrentRequest { component, ..Default::default() };
        let answer = query.get_current(request).await.unwrap();
        assert_eq!(answer.metadata().get("grpc-encoding").unwrap(), name);
        assert_eq!(answer.get_ref().series.len(), 200);
        let answer = admin.get_status(v1::GetStatusRequest {}).await.unwrap();
        assert_eq!(answer.metadata().get("grpc-encoding").unwrap(), name);
    }
    server.stop().await.unwrap();
}

async fn reflection_tells_every_service_in_both_versions_with_comments(server: Server) {
    let client = server.client().await;
    let expected = [
        "grpc.health.v1.Health",
        "healthd.v1.AdminService",
        "healthd.v1.IngestService",
        "healthd.v1.QueryService",
    ];
    let list = MessageRequest::ListServices(String::new());
    let file = MessageRequest::FileContainingSymbol("healthd.v1.IngestService".to_owned());
    let requests = [list, file].map(|request| reflection::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(request),
    });
    let mut v1 =
        reflection::server_reflection_client::ServerReflectionClient::new(client.channel.clone());
    let mut answers =
        v1.server_reflection_info(tokio_stream::iter(requests)).await.unwrap().into_inner();
    let services = answers.message().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(services) = services else { panic!("{services:?}") };
    let names: Vec<_> = services.service.iter().map(|service| service.name.as_str()).collect();
    assert!(expected.iter().all(|service| names.contains(service)), "{names:?}");
    let file = answers.message().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::FileDescriptorResponse(files) = file else { panic!("{file:?}") };
    let files: Vec<_> = files
        .file_descriptor_proto
        .iter()
        .map(|file| prost_types::FileDescriptorProto::decode(&**file).unwrap())
        .collect();
    let comments = files.iter().flat_map(|file| file.source_code_info.iter());
    let comments: Vec<_> = comments
        .flat_map(|info| &info.location)
        .filter_map(|l| l.leading_comments.as_ref())
        .collect();
    assert!(comments.iter().any(|text| text.contains("Streams samples in")), "{comments:?}");
    let mut alpha = reflection_alpha::server_reflection_client::ServerReflectionClient::new(
        client.channel.clone(),
    );
    let request = reflection_alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(
            reflection_alpha::server_reflection_request::MessageRequest::ListServices(String::new()),
        ),
    };
    let mut answers =
        alpha.server_reflection_info(tokio_stream::iter([request])).await.unwrap().into_inner();
    assert!(answers.message().await.unwrap().is_some());
    drop(answers);
    server.stop().await.unwrap();
}

async fn a_stranger_gets_an_answer_of_its_own_kind(server: Server) {
    let mut browser = tokio::net::TcpStream::connect(server.address).await.unwrap();
    browser.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    browser.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    assert!(answer.contains("healthd speaks gRPC"), "{answer}");
    let client = server.client().await;
    let mut raw = tonic::client::Grpc::new(client.channel);
    raw.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static("/healthd.v1.QueryService/Nonsense");
    let codec = tonic_prost::ProstCodec::<v1::GetStatusRequest, v1::GetStatusResponse>::default();
    let request = tonic::Request::new(v1::GetStatusRequest {});
    let status = raw.unary(request, path, codec).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    let path = http::uri::PathAndQuery::from_static("/no.such.Service/Nonsense");
    let codec = tonic_prost::ProstCodec::<v1::GetStatusRequest, v1::GetStatusResponse>::default();
    raw.ready().await.unwrap();
    let request = tonic::Request::new(v1::GetStatusRequest {});
    let status = raw.unary(request, path, codec).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    server.stop().await.unwrap();
}

/// Calls with a deadline that only the server knows: a client of a library would give up by itself.
async fn call(server: &Server, path: &str, timeout: &str, message: &impl Message) -> String {
    let stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(connection);
    let mut client = client.ready().await.unwrap();
    let request = Request::post(format!("http://{}{path}", server.address))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", timeout)
        .body(())
        .unwrap();
    let (answer, mut body) = client.send_request(request, false).unwrap();
    let encoded = message.encode_to_vec();
    let mut frame = vec![0];
    frame.extend((encoded.len() as u32).to_be_bytes());
    frame.extend(encoded);
    // One whose time is over at once is answered before this is sent.
    drop(body.send_data(Bytes::from(frame), true));
    let answer = answer.await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let (head, mut body) = answer.into_parts();
    if let Some(status) = head.headers.get("grpc-status") {
        return status.to_str().unwrap().to_owned();
    }
    while let Some(data) = body.data().await {
        body.flow_control().release_capacity(data.unwrap().len()).unwrap();
    }
    let trailers = body.trailers().await.unwrap().unwrap();
    trailers["grpc-status"].to_str().unwrap().to_owned()
}

async fn a_wait_that_is_too_long_ends_with_deadline_exceeded(server: Server) {
    let mut client = server.client().await;
    client.record(vec![increment("d", "n", 1.0)]).await;
    let record = v1::RecordRequest {
        metrics: vec![increment("d", "n", 1.0)],
        wait_durable: true,
        ..Default::default()
    };
    let path = "/healthd.v1.IngestService/Record";
    assert_eq!(call(&server, path, "20S", &record).await, "0");
    if server.backend == Backend::Sqlite {
        let other = rusqlite::Connection::open(server.path()).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        for timeout in ["50m", "100m", "101m", "103000u"] {
            assert_eq!(call(&server, path, timeout, &record).await, "4", "{timeout}");
        }
        other.execute_batch("ROLLBACK").unwrap();
    }
    let extract = v1::ExtractRequest {
        component: "d".to_owned(),
        start: Some(crate::support::time(second_ago(10))),
        ..Default::default()
    };
    let path = "/healthd.v1.QueryService/Extract";
    assert_eq!(call(&server, path, "1n", &extract).await, "4");
    assert_eq!(call(&server, path, "20S", &extract).await, "0");
    server.stop().await.unwrap();
}
