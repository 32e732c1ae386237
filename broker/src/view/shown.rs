//! The dashboard of a broker: its server, tokens and snapshots put together.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, Weak},
};

use tokio::net::TcpListener;

use super::{
    BrokerSnapshot,
    live::change,
    query::{Query, StreamQuery},
    sources::SourceFields,
    tail::Tail,
};
use crate::{
    context::BrokerContext,
    error::StartError,
    http::dashboard::{
        Dashboard, Kind, Source, Unavailable, Watch,
        access::Access,
        options::{self, DashboardOptions},
        tokens::{CurrentTokens, Tokens},
    },
    net::endpoint::open::Service,
};

/// The file of the tokens in a data folder.
const TOKENS: &str = "dashboard.tokens";

/// A dashboard with everything that may be missing: its socket, its tokens, its fields.
pub(crate) struct Prepared {
    listener: TcpListener,
    service: Service,
    addr: SocketAddr,
    access: Access,
    fields: SourceFields,
    new_token: Option<String>,
}

/// A running dashboard.
pub(crate) struct Shown {
    pub(crate) dashboard: Dashboard,
    /// The token that may do everything, if it was made now.
    pub(crate) new_token: Option<String>,
}

impl Prepared {
    /// Reads the tokens from the file of the options, from that of the data folder, or makes new ones.
    /// Blocks for a short file.
    pub(crate) fn new(
        listener: TcpListener,
        service: Service,
        options: DashboardOptions,
        data_folder: Option<&Path>,
    ) -> Result<Self, StartError> {
        let addr = listener.local_addr().map_err(StartError::Listener)?;
        let is_secure = service.tls.is_some();
        if !is_secure {
            // A name may lead anywhere.
            options::check_plain(&addr.ip().to_string(), addr.port())?;
        }
        let fields = SourceFields::with(&options.source_fields)
            .map_err(|fault| StartError::Option(format!("the field of sources {fault}")))?;
        let path = options.tokens.or_else(|| Some(data_folder?.join(TOKENS)));
        let (tokens, is_new) = match &path {
            Some(path) => Tokens::open(path).map_err(StartError::Option)?,
            None => (Tokens::make().map_err(StartError::Random)?, true),
        };
        let new_token = is_new.then(|| tokens.all().to_owned());
        let tokens = Arc::new(CurrentTokens::new(tokens, path));
        let access = Access { tokens, names: options.names, port: addr.port(), is_secure };
        Ok(Self { listener, service, addr, access, fields, new_token })
    }

    /// Starts to answer.
    pub(crate) fn start(self, context: &Arc<BrokerContext>) -> Shown {
        let Self { listener, service, addr, access, fields, new_token } = self;
        let source = BrokerSource { context: Arc::downgrade(context), fields };
        Shown { dashboard: Dashboard::start(listener, addr, service, access, Arc::new(source)), new_token }
    }
}

/// A broker as the source of what is shown. It does not keep the broker's context alive.
struct BrokerSource {
    context: Weak<BrokerContext>,
    fields: SourceFields,
}

impl Source for BrokerSource {
    fn snapshot(&self, query: &str) -> Result<String, Unavailable> {
        let context = self.context.upgrade().ok_or(Unavailable::Stopped)?;
        let query = Query::parse(query).map_err(Unavailable::Query)?;
        let mut snapshot = context.view();
        query.apply(&mut snapshot);
        serde_json::to_string(&snapshot).map_err(|cause| Unavailable::Query(cause.to_string()))
    }

    fn watch(&self, query: &str) -> Result<Box<dyn Watch>, Unavailable> {
        let StreamQuery { snapshot, tails, filters } = StreamQuery::parse(query).map_err(Unavailable::Query)?;
        let tail = tails.then(|| Tail::new(filters, self.fields.clone()));
        Ok(Box::new(Page { context: self.context.clone(), query: snapshot, sent: None, tail }))
    }
}

/// A page that is open.
struct Page {
    context: Weak<BrokerContext>,
    query: Query,
    /// The snapshot that it has.
    sent: Option<BrokerSnapshot>,
    tail: Option<Tail>,
}

impl Watch for Page {
    fn tails(&self) -> bool {
        self.tail.is_some()
    }

    fn look(&mut self, kind: Kind) -> Option<String> {
        let context = self.context.upgrade()?;
        match kind {
            Kind::Snapshot => {
                if let Some(tail) = &mut self.tail {
                    tail.open(&context.tap);
                }
                let snapshot = self.next(&context);
                serde_json::to_string(self.sent.insert(snapshot)).ok()
            }
            Kind::Change => {
                let now = self.next(&context);
                let change = self.sent.as_ref().and_then(|sent| change(sent, &now));
                self.sent = Some(now);
                change
            }
            Kind::Tail => self.tail.as_mut()?.look(),
            Kind::Sources => self.tail.as_ref()?.top_sources(),
        }
    }
}

impl Page {
    fn next(&self, context: &BrokerContext) -> BrokerSnapshot {
        let mut snapshot = context.view();
        self.query.apply(&mut snapshot);
        snapshot
    }
}
